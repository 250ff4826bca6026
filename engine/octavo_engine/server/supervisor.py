"""Several API processes on one port before one core: starts them, keeps them alive, drains and ends them.

    supervisor ── starts ──> core <══ ZeroMQ, a pair of sockets each ══> worker 1 .. N ── one port

The supervisor holds all listening sockets: while a worker is started again its connections wait. It serves
nothing itself, so nothing that clients do can keep it from its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from octavo_engine.core_client import OwnedCore
from octavo_engine.core_link import CoreProcess
from octavo_engine.errors import EngineError
from octavo_engine.server.options import ServerOptions
from octavo_engine.server.orders import CoreEnded, Drain, Drained, Failed, Order, Report, WorkerSpec

_STEADY_SECONDS = 10.0  # a worker that lives so long has not failed to start
_MOST_FAILURES = 3  # in a row
_ENDING_SECONDS = 4.0  # for workers to say their last words
_log = logging.getLogger(__name__)


class _Worker:
    """A running worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.drained = asyncio.Event()
        self.failure: Failed | None = None

    def tell(self, order: Order) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(msgspec.json.encode(order) + b"\n")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def watch(self) -> int:
        """Take in its reports until it ends; returns the exit code."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            report = msgspec.json.decode(line, type=Report)
            if isinstance(report, Drained):
                self.drained.set()
            else:
                self.failure = report
        code = await self.process.wait()
        self.drained.set()
        return code


class Supervisor:
    def __init__(
        self, options: ServerOptions, process: CoreProcess, listeners: Sequence[socket.socket]
    ) -> None:
        """Needs a running event loop. ``listeners``: one socket a worker, all on one port."""
        self._options = options
        self._process = process
        self._listeners = listeners
        self._core = OwnedCore(process)
        self._workers: dict[int, _Worker] = {}
        self._over: asyncio.Future[EngineError | None] = asyncio.get_running_loop().create_future()
        self._drain: asyncio.Task[None] | None = None
        self._metrics = process.folder / "metrics"
        self._metrics.mkdir()

    async def run(self) -> None:
        """Serve until told to end. Errors: :class:`EngineError` with a sentence that says why not."""
        keepers = [asyncio.create_task(self._keep(client)) for client in range(1, 1 + len(self._listeners))]
        try:
            ends: list[asyncio.Future[Any]] = [self._over, self._core.died]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            error = self._over.result() if self._over.done() else self._core_ended()
        finally:
            self._finish(None)
            await self._end_workers(keepers)
            await self._core.close()
        if error is not None:
            raise error

    def on_signal(self) -> None:
        """The first signal drains, the second ends at once."""
        if self._drain is not None:
            self._process.popen.kill()
            for worker in self._workers.values():
                worker.process.kill()
            self._finish(EngineError("Stopped at once: running requests were not finished."))
            return
        _log.info("Draining: running requests may finish, new ones are refused.")
        self._drain = asyncio.create_task(self._until_drained())

    async def _until_drained(self) -> None:
        for worker in self._workers.values():
            worker.tell(Drain())
        waits = [asyncio.create_task(worker.drained.wait()) for worker in self._workers.values()]
        if waits:
            await asyncio.wait(waits, timeout=self._options.drain_timeout)
        self._finish(None)

    def _finish(self, error: EngineError | None) -> None:
        if not self._over.done():
            self._over.set_result(error)

    def _core_ended(self) -> EngineError:
        error = self._core.died.result()
        for worker in self._workers.values():
            worker.tell(CoreEnded(str(error), error.exit_code))
        return error

    async def _keep(self, client: int) -> None:
        """Run a worker, and another in its place when it dies."""
        failures = incarnation = 0
        while not self._over.done() and self._drain is None:
            began = time.monotonic()
            worker = self._workers[client] = await self._start(client, incarnation)
            code = await worker.watch()
            self._clear_up(client, incarnation, worker)
            incarnation += 1
            failures = failures + 1 if time.monotonic() - began < _STEADY_SECONDS else 1
            if self._over.done() or self._core.died.done():
                return
            if worker.failure is not None or failures >= _MOST_FAILURES:
                self._finish(_why(client, code, worker.failure))
                return
            _log.warning("API worker %d ended (%s); its requests are lost.", client, _manner(code))

    def _clear_up(self, client: int, incarnation: int, worker: _Worker) -> None:
        """What a dead worker had asked for is freed, and its requests are active no more."""
        from prometheus_client.multiprocess import mark_process_dead

        self._core.abort_client(client, incarnation)
        mark_process_dead(worker.process.pid, str(self._metrics))  # type: ignore[no-untyped-call]

    async def _start(self, client: int, incarnation: int) -> _Worker:
        listener = self._listeners[client - 1].fileno()
        ready = self._core.ready.result() if self._core.ready.done() else None
        spec = WorkerSpec(
            self._options,
            client,
            incarnation,
            self._process.addresses[client],
            listener,
            logging.getLogger().level,
            ready,
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "octavo_engine.server.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[listener],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics)},
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        return _Worker(process)

    async def _end_workers(self, keepers: list[asyncio.Task[None]]) -> None:
        for worker in self._workers.values():
            worker.stop()
        patience = _ENDING_SECONDS if self._core.ready.done() else 0.0  # before that nothing was accepted
        _, late = await asyncio.wait(keepers, timeout=patience)
        if late:
            for worker in self._workers.values():
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
            await asyncio.wait(late)


async def supervise(options: ServerOptions, process: CoreProcess, listeners: Sequence[socket.socket]) -> None:
    """Serve on all ``listeners`` until told to end. Errors: :class:`EngineError`."""
    supervisor = Supervisor(options, process, listeners)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.on_signal)
    await supervisor.run()


def _why(client: int, code: int, failure: Failed | None) -> EngineError:
    error = EngineError(
        f"API worker {client} ended {_MOST_FAILURES} times in a row ({_manner(code)})."
        if failure is None
        else failure.sentence
    )
    error.exit_code = 1 if failure is None else failure.exit_code
    return error


def _manner(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
