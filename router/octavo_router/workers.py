"""Several router processes behind one port (SO_REUSEPORT): started, watched, restarted and ended together.

    supervisor (admin port) ══ a socket pair each ══ worker: discovery, data path, tables of its own

The figures are added up; the router is ready when all workers are. A worker that dies is started again, one
that never became ready ends all. A worker whose supervisor is gone drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from octavo_router.admin import administered
from octavo_router.channel import ASK, Start, State, read_state, start_line
from octavo_router.metrics import Figures, Snapshot, without_gauges
from octavo_router.overview import Overview, added_up
from octavo_router.settings import Settings

log = logging.getLogger("octavo.router")

_ASK_EVERY_S = 0.25
_SILENT_S = 10.0  # after which a worker counts as hung
_RESTART_S = 1.0


class Worker:
    """One worker as its supervisor sees it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self.state: State | None = None
        self.was_ready = False
        self._channel = channel
        self._heard_at = time.monotonic()

    @classmethod
    async def start(cls, start: Start) -> Worker:
        ours, theirs = socket.socketpair()
        ours.sendall(start_line(start))
        with theirs:
            command = [sys.executable, "-m", "octavo_router.worker", str(theirs.fileno())]
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], start_new_session=True
            )
        return cls(process, ours)

    async def watch(self) -> int:
        """Asks for its state until it is gone; returns its exit code."""
        reader, writer = await asyncio.open_connection(sock=self._channel)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                writer.write(ASK)
                self.state = await read_state(reader)
                self._heard_at = time.monotonic()
                self.was_ready = self.was_ready or self.state.unready is None
                await asyncio.sleep(_ASK_EVERY_S)
        writer.close()
        return await self.process.wait()

    def broken(self) -> str | None:
        if time.monotonic() - self._heard_at > _SILENT_S:
            return f"The worker {self.process.pid} has not answered for {_SILENT_S:g} s."
        return self.state.broken if self.state is not None else None

    def unready(self) -> str | None:
        return self.state.unready if self.state is not None else "A worker has not started yet."

    def tell(self) -> None:
        """Passes on a signal to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)


class Supervisor:
    """Runs `settings.workers` workers until SIGTERM or SIGINT, and then until the last has drained."""

    def __init__(self, settings: Settings, static: Path | None) -> None:
        self._settings = settings
        self._static = static
        self._workers: list[Worker | None] = [None] * settings.workers
        self._past: list[Snapshot] = []  # what workers had counted that are gone
        self._leaving = False
        self._code = 0

    async def run(self) -> int:
        """Serves, then drains; returns the exit code. Raises OSError when a port is taken."""
        with _reserved(self._settings) as port:
            start = Start(
                worker_settings(self._settings).model_dump() | {"port": port},
                None if self._static is None else str(self._static),
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._leave)
            async with administered(self._settings, self.figures, self._models, self._unready, self._broken):
                log.info("serving on %s:%d with %d workers", self._settings.host, port, len(self._workers))
                await asyncio.gather(*(self._keep(number, start) for number in range(len(self._workers))))
        return self._code

    def figures(self) -> Figures:
        """Those of all workers, added up."""
        states = [w.state for w in self._workers if w is not None and w.state is not None]
        total = Figures()
        for snapshot in (*self._past, *(state.figures for state in states)):
            total.add(snapshot)
        total.synced = len(states) == len(self._workers) and all(s.figures["synced"] for s in states)
        total.workers = len(states)
        return total

    def _models(self) -> Overview:
        return added_up(w.state.models for w in self._workers if w is not None and w.state is not None)

    async def _keep(self, number: int, start: Start) -> None:
        """Keeps one worker running."""
        while not self._leaving:
            self._workers[number] = worker = await Worker.start(start)
            if self._leaving:
                worker.tell()
            code = await worker.watch()
            if worker.state is not None:
                self._past.append(without_gauges(worker.state.figures))
                worker.state = None
            if self._leaving:
                return
            if not worker.was_ready:
                self._code = code or 1
                self._leave()
                return
            log.error("worker %d ended with code %d; starting another", worker.process.pid, code)
            await asyncio.sleep(_RESTART_S)

    def _leave(self) -> None:
        self._leaving = True
        for worker in self._workers:
            if worker is not None:
                worker.tell()

    def _broken(self) -> str | None:
        return next((why for w in self._workers if w is not None and (why := w.broken())), None)

    def _unready(self) -> str | None:
        if self._leaving:
            return "The router is leaving."
        reasons = (w.unready() if w is not None else "A worker has not started yet." for w in self._workers)
        return next((why for why in reasons if why), None)


def worker_settings(settings: Settings) -> Settings:
    """Those of each worker: its share, rounded up, of what the workers may hold together.

    A worker must be able to take the largest body, whatever its share.
    """
    share = -(-settings.max_buffered_bytes // settings.workers)
    return settings.model_copy(
        update={
            "max_buffered_bytes": max(share, settings.max_body_bytes),
            "hold_requests": -(-settings.hold_requests // settings.workers),
        }
    )


@contextlib.contextmanager
def _reserved(settings: Settings) -> Iterator[int]:
    """Holds the port that the workers share. Raises OSError when something else listens there."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((settings.host, settings.port))
        yield held.getsockname()[1]
