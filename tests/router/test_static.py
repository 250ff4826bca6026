"""The static file: what it makes known, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo_router.errors import SettingsError
from octavo_router.metrics import Figures
from octavo_router.registry import Registry
from octavo_router.static import load_static


def loaded(folder: Path, text: str) -> Registry:
    path = folder / "models.yaml"
    path.write_text(text)
    registry = Registry(Figures())
    load_static(path, registry)
    return registry


def test_models_aliases_and_urls_are_known(tmp_path: Path) -> None:
    text = "models: {m: {urls: ['http://127.0.0.1:1', 'http://pod/'], aliases: [gpt]}}"
    registry = loaded(tmp_path, text)
    assert [e.address for e in registry.resolve("gpt").ready] == ["127.0.0.1:1", "pod:80"]
    assert [card.id for card in registry.cards()] == ["gpt", "m"]


WRONG = {
    "no models": ("models: {}", "models"),
    "no file of this kind": ("[1]", "its top"),
    "no YAML": ("models: {", "not YAML"),
    "no URLs": ("models: {m: {urls: []}}", "models.m.urls"),
    "an unknown key": ("models: {m: {urls: ['http://a'], weight: 1}}", "models.m.weight"),
    "https": ("models: {m: {urls: ['https://a']}}", "'https://a'; write it as http://HOST:PORT"),
    "a path": ("models: {m: {urls: ['http://a/v1']}}", "'http://a/v1'"),
    "a port out of range": ("models: {m: {urls: ['http://a:99999']}}", "'http://a:99999'"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_refused_is_a_file_with(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, text)
    assert words in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.yaml cannot be read: No such file"):
        load_static(tmp_path / "missing.yaml", Registry(Figures()))
