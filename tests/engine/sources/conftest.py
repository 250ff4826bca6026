"""A hub in this process, and a fetcher that waits for nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.servers.hub import Hub, Repository

from octavo_engine.sources.access import Access
from octavo_engine.sources.cache import Cache
from octavo_engine.sources.fetch import Fetcher
from octavo_engine.sources.patience import Patience
from octavo_engine.sources.progress import Progress

MODEL = {
    "config.json": b"{}",
    "model.safetensors": os.urandom(3_000_000),
    "tokenizer.json": b'{"a": "b"}' * 300,
    "pytorch_model.bin": b"pickled" * 1000,
    "modeling_llama.py": b"raise SystemExit",
    "onnx/model.safetensors": b"x" * 5000,
}
TAKEN = {"config.json", "model.safetensors", "tokenizer.json"}
NewFetcher = Callable[..., Fetcher]


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["org/model"] = Repository(MODEL)
    with hub.running():
        yield hub


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that would have been waited."""
    return []


@pytest.fixture
def new_fetcher(tmp_path: Path, pauses: list[float]) -> NewFetcher:
    def make(endpoint: str, root: Path | None = None, **access: str) -> Fetcher:
        patience = Patience(attempts=4, pause=pauses.append)
        cache = Cache(root or tmp_path / "cache")
        return Fetcher(cache, Access(endpoint=endpoint, **access), Progress(), patience)

    return make


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
