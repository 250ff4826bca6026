"""How far a download is, for people, for the operator, and for those who wait for another's download."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

State = Literal["resolving", "waiting", "downloading", "done"]
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """One moment; ``file`` is the one last written to, ``trouble`` why the last try failed."""

    state: State = "resolving"
    downloaded_bytes: int = 0
    total_bytes: int = 0
    file: str = ""
    trouble: str = ""

    @property
    def percent(self) -> int:
        return 100 * self.downloaded_bytes // self.total_bytes if self.total_bytes else 0

    @property
    def sentence(self) -> str:
        if self.state == "done":
            return "The model is in the cache."
        if self.trouble:
            return f"{self.trouble} It is tried again."
        if not self.total_bytes:
            return "The model's files are being looked up."
        amount = f"{self.percent}% of {size_text(self.total_bytes)}"
        who = (
            "Another pod downloads the model" if self.state == "waiting" else "The model is being downloaded"
        )
        return f"{who}: {amount}{f', {self.file}' if self.file else ''}."


class Progress:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Snapshot()

    @property
    def now(self) -> Snapshot:
        return self._now

    def show(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._now = snapshot

    def begin(self, total_bytes: int) -> None:
        self.show(Snapshot("downloading", 0, total_bytes))

    def fail(self, trouble: str) -> None:
        """A try has failed, and there will be another."""
        with self._lock:
            self._now = msgspec.structs.replace(self._now, trouble=trouble)

    def add(self, count: int, file: str) -> None:
        """``count`` bytes more are there; fewer when it is negative."""
        with self._lock:
            now = self._now
            self._now = Snapshot(now.state, now.downloaded_bytes + count, now.total_bytes, file)


def size_text(count: int) -> str:
    """``16.1 GB``: decimal units, as hubs show sizes."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 100 else f"{value:.0f} {_UNITS[unit]}"


@contextmanager
def repeating(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` from a thread of its own every so often while the block runs, and once at its end."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            tell()

    thread = threading.Thread(target=run, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell()
