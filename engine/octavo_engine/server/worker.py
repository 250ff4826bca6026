"""One of several API processes on a port; a supervisor starts it, tells it to drain, and ends it.

stdin   WorkerSpec, then Order lines; its end stops the process: no worker outlives its supervisor
stdout  Report lines
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from io import FileIO

import msgspec

from octavo_engine.core_client import CoreClient
from octavo_engine.core_link import CoreLink
from octavo_engine.errors import CoreDied, EngineError
from octavo_engine.server.event_loop import runner
from octavo_engine.server.http_server import HttpServer
from octavo_engine.server.orders import Drain, Drained, Failed, Order, Report, WorkerSpec


class _Worker:
    def __init__(self, spec: WorkerSpec, link: CoreLink) -> None:
        self._core = CoreClient(link)
        if spec.ready is not None:
            self._core.take(spec.ready)
        listener = socket.socket(fileno=spec.listener)
        self._server = HttpServer(spec.options, self._core, listener, shared_metrics=True)
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> None:
        orders = asyncio.create_task(self._obey())
        try:
            await self._server.run()
        except CoreDied:
            pass  # the supervisor has told us, and tells the user
        except EngineError as error:
            _report(Failed(str(error), error.exit_code))
        finally:
            orders.cancel()
            await self._core.close()

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            self._follow(msgspec.json.decode(line, type=Order))
        self._server.stop()

    def _follow(self, order: Order) -> None:
        if isinstance(order, Drain):
            self._draining = asyncio.create_task(self._drain())
        else:
            error = CoreDied(order.sentence)
            error.exit_code = order.exit_code
            self._core.lose(error)

    async def _drain(self) -> None:
        await self._server.drain()
        _report(Drained())


def _report(report: Report) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(report) + b"\n")


async def _run(spec: WorkerSpec, link: CoreLink) -> None:
    await _Worker(spec, link).run()


def main() -> None:
    """Entry of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor hears signals and decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    first = FileIO(sys.stdin.fileno(), closefd=False).readline()  # unbuffered: what follows is for _obey
    spec = msgspec.json.decode(first, type=WorkerSpec)
    logging.basicConfig(level=spec.log_level, format="%(asctime)s %(levelname)s %(message)s")
    link = CoreLink(spec.options.engine, spec.address, spec.client, spec.incarnation)
    with runner() as loop:
        loop.run(_run(spec, link))


if __name__ == "__main__":
    main()
