"""Settings from the environment, and docs/router.md's table of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octavo_router.errors import SettingsError
from octavo_router.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "router.md"


def test_the_environment_sets_fields_and_the_command_line_wins() -> None:
    environ = {"OCTAVO_PORT": "9000", "OCTAVO_DRAIN_TIMEOUT": "1.5", "OCTAVO_FORWARDED": "true", "OTHER": "x"}
    settings = Settings.load(environ, port=9001, admin_port=None)
    assert (settings.port, settings.admin_port, settings.drain_timeout) == (9001, 8081, 1.5)
    assert settings.forwarded


@pytest.mark.parametrize(("text", "names"), [("", ()), ("a", ("a",)), (" a, b ,", ("a", "b"))])
def test_namespaces_are_listed_with_commas(text: str, names: tuple[str, ...]) -> None:
    assert Settings.load({"OCTAVO_WATCH_NAMESPACES": text}).watch_namespaces == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OCTAVO_PORT", "http"),
        ("OCTAVO_PORT", "70000"),
        ("OCTAVO_MAX_TRIES", "0"),
        ("OCTAVO_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({name: value})
    assert str(refused.value).startswith(f"{name} is '{value}': ")


def test_a_body_that_could_never_be_held_is_refused() -> None:
    environ = {"OCTAVO_MAX_BODY_BYTES": "1073741824"}
    with pytest.raises(SettingsError, match=r"is 1073741824: no such body could be taken.*536870912"):
        Settings.load(environ)
    assert Settings.load(environ | {"OCTAVO_MAX_BUFFERED_BYTES": "2147483648"}).max_body_bytes == 1 << 30


def test_the_page_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `OCTAVO_(\w+)` \| `([^`]*)` \|", PAGE.read_text(), re.M))
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    shown = {n: ",".join(d) if isinstance(d, tuple) else str(d).lower() for n, d in defaults.items()}
    assert rows == shown
