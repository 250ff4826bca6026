"""How far a rank's step has come, told to another thread: a long step moves on, one that hangs does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from octavo_engine.runner.parallel.wire import Doing


class Pulse:
    """``count`` moves with each collective, each stage's hidden states and each step.

    A rank that ``computes`` must move on by itself; one that ``waits`` does when other ranks do. What a GPU
    does is not seen: there only launched and collected steps count.
    """

    def __init__(self) -> None:
        self.count = 0
        self.computes = False
        self.waits = False

    def moved(self) -> None:
        self.count += 1

    def doing(self, in_flight: int) -> Doing:
        """What a rank does that has so many steps in flight."""
        if self.computes and not self.waits:
            return "working"
        return "waiting" if in_flight else "idle"

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.count, self.computes = self.count + 1, True
        try:
            yield
        finally:
            self.count, self.computes = self.count + 1, False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Something that only other ranks can end."""
        self.count, self.waits = self.count + 1, True
        try:
            yield
        finally:
            self.count, self.waits = self.count + 1, False
