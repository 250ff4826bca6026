"""A keyed, de-duplicating work queue: one worker at a time has a key, and again if it changed meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

FIRST_DELAY, LAST_DELAY = 0.05, 60.0  # seconds

K = TypeVar("K", bound=Hashable)


def delay_after(failures: int) -> float:
    """Seconds to wait after that many failures in a row."""
    return float(min(FIRST_DELAY * 2 ** min(failures, 32), LAST_DELAY))


class WorkQueue(Generic[K]):
    """queued: waits for a worker. busy: a worker has it. dirty: was added while busy."""

    def __init__(self) -> None:
        self._queued: dict[K, None] = {}  # ordered
        self._busy: set[K] = set()
        self._dirty: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._waiting = asyncio.Semaphore(0)  # as many as are queued

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._queued)

    def add(self, key: K) -> None:
        """Have `key` worked on soon, and after what is going on with it now."""
        if key in self._busy:
            self._dirty.add(key)
            return
        if key not in self._queued:
            self._queued[key] = None
            self._waiting.release()

    async def get(self) -> K:
        """The key that has waited longest; it is busy until done() or retry()."""
        await self._waiting.acquire()
        key = next(iter(self._queued))
        del self._queued[key]
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on `key` succeeded."""
        self._failures.pop(key, None)
        self._cancel(key)
        self._leave(key)

    def retry(self, key: K) -> None:
        """The work on `key` failed: it comes back after a delay that doubles each time."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(delay_after(failures), self._due, key)
        self._leave(key)

    def close(self) -> None:
        """Forget all timers."""
        for key in list(self._timers):
            self._cancel(key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _leave(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)


async def work(queue: WorkQueue[K], do: Callable[[K], Awaitable[bool]]) -> None:
    """One worker: runs `do` on key after key; False or an exception brings the key back later."""
    while True:
        key = await queue.get()
        try:
            succeeded = await do(key)
        except asyncio.CancelledError:
            raise
        except Exception:  # `do` has told; one key's trouble must not end the worker
            succeeded = False
        if succeeded:
            queue.done(key)
        else:
            queue.retry(key)
