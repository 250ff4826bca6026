"""Trying again what may succeed at another time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from octavo_engine.errors import DownloadFailed
from octavo_engine.sources.progress import Progress

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Delays double from ``first`` to ``longest`` seconds; a longer Retry-After counts."""

    attempts: int = 7
    first: float = 1.0
    longest: float = 30.0
    pause: Callable[[float], None] = time.sleep

    def wait(self, failures: int, error: DownloadFailed, progress: Progress) -> None:
        """After so many failures in a row. Errors: ``error`` itself, when they are too many."""
        if failures >= self.attempts:
            raise error
        delay = min(self.longest, self.first * 2 ** (failures - 1))
        delay = min(max(delay, error.retry_after or 0), 10 * self.longest)
        _log.warning("%s Attempt %d of %d; the next is in %.0f s.", error, failures, self.attempts, delay)
        progress.fail(str(error))
        self.pause(delay)

    def call(self, work: Callable[[], Result], progress: Progress) -> Result:
        failures = 0
        while True:
            try:
                return work()
            except DownloadFailed as error:
                failures += 1
                self.wait(failures, error, progress)
