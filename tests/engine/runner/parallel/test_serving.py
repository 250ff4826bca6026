"""A server over several ranks of this node: how it drains, and how it ends when one is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.engine.server.running_server import RunningServer
from tests.engine.server.test_lifecycle import OpenStream

from octavo_engine.core_process import MODEL_RUNNER

FLAGS = ["--device", "cpu", "--dtype", "float32", "--num-gpu-blocks-override", "64"]


@pytest.fixture(params=["-tp", "-pp"])
def server(request: pytest.FixtureRequest, served_folder: Path) -> Iterator[RunningServer]:
    running = RunningServer(served_folder, request.param, "2", *FLAGS, runner=MODEL_RUNNER)
    try:
        yield running.until_ready()
    finally:
        running.close()


def rank_1(server: RunningServer) -> psutil.Process:
    (found,) = server.core.children()
    return found


def last_health(server: RunningServer) -> dict[str, Any]:
    """What /health said last before nobody answers any more."""
    said = [server.client.get("/health").json()]
    with contextlib.suppress(httpx.TransportError):
        while True:
            said.append(server.client.get("/health").json())
    return said[-1]


def test_a_lost_rank_ends_the_server_with_its_name_and_no_orphans(server: RunningServer) -> None:
    core, rank = server.core, rank_1(server)
    os.kill(rank.pid, signal.SIGKILL)
    health = last_health(server)
    code, stderr = server.end()
    assert code == 1
    last = stderr.splitlines()[-1]
    assert last.startswith("The engine ended because rank 1")
    assert "was killed (SIGKILL)" in last
    assert (health["status"], health["message"]) == ("dead", last)
    assert not core.is_running()


def test_a_rank_that_hangs_does_not_outlive_a_killed_server(server: RunningServer) -> None:
    core, rank = server.core, rank_1(server)
    os.kill(rank.pid, signal.SIGSTOP)
    server.process.kill()
    _, alive = psutil.wait_procs([core, rank], timeout=10)
    assert not alive


def test_sigterm_lets_a_stream_finish_and_every_rank_end(server: RunningServer) -> None:
    rank = rank_1(server)
    stream = OpenStream(server, max_tokens=100)
    while not stream.status:
        assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert stream.finish()[-1] == "data: [DONE]"
    assert server.end()[0] == 0
    psutil.wait_procs([rank], timeout=10)
    assert not rank.is_running()
