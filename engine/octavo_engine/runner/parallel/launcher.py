"""How the ranks' processes come to be, and how it is known that one has ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from octavo_engine.runner.parallel.wire import WorkerSpec

END_WITH_PARENT = "--end-with-parent"
_KILLED_SECONDS = 5.0


class Launcher(Protocol):
    """Places every rank but 0, which lives in the core's own process."""

    host: str  # where rank 0 is, as the others reach it
    device: int  # index of rank 0's GPU in this process

    def here(self) -> list[int]:
        """The ranks on rank 0's node, 0 among them."""
        ...

    def device_of(self, rank: int) -> int:
        """Index of a rank's GPU in its own process."""
        ...

    def start(self, specs: Iterable[WorkerSpec]) -> None: ...
    def ended(self) -> dict[int, str]:
        """rank -> how it ended (``was killed (SIGKILL)``), of those that have."""
        ...

    def end(self, patience: float) -> None:
        """Wait ``patience`` seconds for all to end by themselves, then kill them; 0 waits for nobody."""
        ...


class LocalLauncher:
    """All ranks on this node, each a child process that ends with the core: its stdin is held open by it."""

    host = "127.0.0.1"
    device = 0
    worker = "octavo_engine.runner.parallel.worker"  # the module that is a rank's process

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def here(self) -> list[int]:
        return list(range(self._world_size))

    def device_of(self, rank: int) -> int:
        return rank

    def start(self, specs: Iterable[WorkerSpec]) -> None:
        command = [sys.executable, "-m", self.worker]
        if threading.current_thread() is threading.main_thread():  # which ends with the process alone
            command.append(END_WITH_PARENT)
        for spec in specs:
            process = subprocess.Popen(command, stdin=subprocess.PIPE)
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(spec) + b"\n")
            process.stdin.flush()
            self._processes[spec.rank] = process

    def ended(self) -> dict[int, str]:
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: how_it_ended(code) for rank, code in codes.items() if code is not None}

    def end(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may be long in letting go of a GPU
                process.wait(_KILLED_SECONDS if patience else 0.0)
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()


def how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), most often because memory ran out"
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return f"ended by itself with exit code {code}"
