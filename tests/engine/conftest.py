from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.engine.server.running_server import GATED, RunningServer
from tests.engine.server.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[RunningServer]:
    """One server for all tests that leave it as it was."""
    running = RunningServer(tiny_model)
    try:
        yield running.until_ready()
    finally:
        running.close()


@pytest.fixture
def start(tiny_model: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of a test's own; all are ended with it."""
    started: list[RunningServer] = []

    def begin(*flags: str, runner: str = GATED) -> RunningServer:
        started.append(RunningServer(tiny_model, *flags, runner=runner))
        return started[-1]

    yield begin
    for running in started:
        running.close()
