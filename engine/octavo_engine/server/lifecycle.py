"""A server of one process from its first breath to its last: bind, load, serve, drain, exit.

bind ── spawn core ── listen (503 loading) ── ready (200) ── SIGTERM: drain (503) ── core ends ── exit 0
                              └── core dies: every stream gets an error, 503, one sentence, exit 1 or 2

With ``--api-workers`` above 1 :mod:`octavo_engine.server.supervisor` takes this place.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

from octavo_engine.core_client import OwnedCore
from octavo_engine.core_link import CoreProcess
from octavo_engine.errors import EngineError
from octavo_engine.server.http_server import HttpServer
from octavo_engine.server.options import ServerOptions

_log = logging.getLogger(__name__)


class _Life:
    """One server and its core; hears the signals."""

    def __init__(self, options: ServerOptions, core: OwnedCore, listener: socket.socket) -> None:
        self._core = core
        self._server = HttpServer(options, core, listener)
        self._draining: asyncio.Task[None] | None = None
        self._stopped = False

    async def run(self) -> None:
        """Errors: :class:`EngineError` when the core or the tokenizer cannot go on."""
        try:
            await self._server.run()
        except EngineError:
            if not self._stopped:
                raise
        if self._stopped:
            raise EngineError("Stopped at once: running requests were not finished.")

    def on_signal(self) -> None:
        """The first signal drains, the second ends at once."""
        if self._draining is not None:
            self._stopped = True
            self._server.stop_at_once()
            self._core.process.popen.kill()
            return
        _log.info("Draining: %d running requests may finish, new ones are refused.", self._server.active)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._server.drain()
        self._server.stop()


async def serve(options: ServerOptions, process: CoreProcess, listener: socket.socket) -> None:
    """Serve until told to end. Errors: :class:`EngineError` when the core or the tokenizer cannot go on."""
    core = OwnedCore(process)
    life = _Life(options, core, listener)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, life.on_signal)
    try:
        await life.run()
    finally:
        await core.close()
