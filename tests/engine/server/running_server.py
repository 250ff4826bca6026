"""A real server process for tests, with a fake runner behind it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

ROOT = Path(__file__).parents[3]
FAKE = "octavo_engine.fake_runner:FakeRunner"
GATED = "tests.engine.server.gated_runner:GatedRunner"
UNLOADABLE = "tests.engine.server.gated_runner:UnloadableRunner"
FAULTY = "tests.engine.server.gated_runner:FaultyRunner"
Found = TypeVar("Found")


def until(condition: Callable[[], Found], seconds: float = 20.0) -> Found:
    """The first true value of ``condition``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)
    return found


class RunningServer:
    def __init__(self, model: Path | None, *flags: str, runner: str = FAKE) -> None:
        """``model`` None: the embedded one, really computed."""
        self.port = free_port()
        self.gate = Path(tempfile.gettempdir(), f"octavo-test-gate-{os.getpid()}-{self.port}")
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        command = [sys.executable, "-m", "octavo_engine", "serve"]
        command += [] if model is None else ["--model", str(model), "--runner", runner]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--served-model-name",
            "tiny",
            "alias",
            *flags,
        ]
        paths = os.pathsep.join([str(ROOT / "engine"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, "OCTAVO_TEST_GATE": str(self.gate)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def health(self, probe: str = "ready") -> tuple[int, str]:
        """(HTTP status, status of the body); (0, "") while nobody answers."""
        try:
            answer = self.client.get("/health", params={"probe": probe})
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.json()["status"]

    def until_ready(self) -> RunningServer:
        until(lambda: self.health() == (200, "ok") or self.process.poll() is not None, seconds=60)
        assert self.process.poll() is None, self.process.communicate()[1]
        return self

    @property
    def core(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name + "{")).split()[-1])

    def end(self) -> tuple[int, str]:
        """(exit code, stderr) of a process that is ending."""
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr

    def close(self) -> None:
        self.gate.unlink(missing_ok=True)
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
