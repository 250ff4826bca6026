"""Processes that outlive the command which started them, found again by what is written on disk."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from e2e.cluster.errors import ClusterError

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """A process, told by its start time from a later one that was given the same id."""

    pid: int
    born: str

    @classmethod
    def running(cls, pid: int) -> "Process":
        """The process that has the id `pid` now; its `born` is empty when there is none."""
        return cls(pid, _stat(pid)[19])

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that waits to be reaped does not."""
        fields = _stat(self.pid)
        return bool(self.born) and fields[19] == self.born and fields[0] != "Z"

    def first_child(self) -> int | None:
        """The id of its first child, or None when it has none (yet)."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def end(self, first: signal.Signals, grace: float) -> None:
        """Send `first`, then SIGKILL once `grace` seconds have passed; return when it is gone."""
        deadline = time.monotonic() + grace
        self._send(first)
        while self.alive:
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ChildProcessError):  # started by another run of the command
            os.waitpid(self.pid, 0)

    def _send(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)


@dataclass(frozen=True)
class ProcessTable:
    """The processes of one cluster by name: a file for each in `folder`, a log for each in `logs`."""

    folder: Path
    logs: Path

    def start(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] = MappingProxyType({})
    ) -> Process:
        """Start `command` in a session of its own, its output appended to `logs/NAME.log`."""
        words = [str(word) for word in command]
        log = (
            os.POSIX_SPAWN_OPEN,
            1,
            self.logs / f"{name}.log",
            APPEND,
            0o600,
        )
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
        pid = os.posix_spawnp(words[0], words, {**os.environ, **env}, file_actions=actions, setsid=True)
        process = Process.running(pid)
        (self.folder / name).write_text(f"{process.pid} {process.born}")
        return process

    def names(self) -> list[str]:
        """The names of all processes that were started and not stopped."""
        return sorted(path.name for path in self.folder.glob("*")) if self.folder.exists() else []

    def get(self, name: str) -> Process:
        """The process of that name, whether or not it is still alive."""
        pid, _, born = (self.folder / name).read_text().partition(" ")
        return Process(int(pid), born)

    def stop(self, name: str, first: signal.Signals = signal.SIGKILL, grace: float = 5) -> None:
        """End the process of that name and forget it."""
        self.get(name).end(first, grace)
        (self.folder / name).unlink()

    def last_line(self, name: str) -> str:
        """The last line of its log that is not empty, for error messages."""
        lines = (self.logs / f"{name}.log").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")

    def wait(self, name: str, what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until `ready()`; an OSError in it means not yet.

        Raises:
            ClusterError: `name` ended, or `seconds` went by; the text has the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not _holds(ready):
            if not self.get(name).alive:
                raise ClusterError(f"{name} ended before {what}: {self.last_line(name)} (logs: {self.logs})")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{what} did not happen within {seconds:g} s; the last that {name} said: "
                    f"{self.last_line(name)} (logs: {self.logs})"
                )
            time.sleep(POLL_SECONDS)


def _holds(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty strings when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return [""] * 20
