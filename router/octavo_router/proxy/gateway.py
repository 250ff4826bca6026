"""The data path of one process: its listening sockets, connections, deadlines, and its end."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

from octavo_router.access_log import AccessLog
from octavo_router.keys import Keyring
from octavo_router.metrics import Figures
from octavo_router.prompt import Features, read_body, renamed
from octavo_router.proxy.account import Account, entry_of
from octavo_router.proxy.client import ClientConnection
from octavo_router.proxy.heads import RequestHead
from octavo_router.proxy.pool import Pool
from octavo_router.proxy.reader import Request
from octavo_router.proxy.tries import Tries
from octavo_router.registry import Registry
from octavo_router.settings import Settings
from octavo_router.trace import CONTEXT, new_trace, trace_of

_AUTHORIZATION = b"authorization"
_SWEEP_S = 0.25  # how late a deadline may be noticed
_BACKLOG = 2048


class Gateway:
    """What all connections of the process share. Lives on one event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        pool: Pool,
        figures: Figures,
        keyring: Keyring | None = None,
    ) -> None:
        self.settings = settings
        self.session_header = settings.session_header.lower().encode("latin-1", "replace")
        self.registry = registry
        self.keyring = keyring
        self.access_log = AccessLog(settings.access_log) if settings.access_log else None
        self.watchful = keyring is not None or self.access_log is not None or settings.trace
        self.pool = pool
        self.figures = figures
        self.keepalive_timeout = settings.keepalive_timeout
        self.upstream_timeout = settings.upstream_timeout
        self.closing = False  # responses say `Connection: close`
        self._loop = asyncio.get_running_loop()
        self.now = time.monotonic  # uvloop's own clock has whole milliseconds
        self._ids = itertools.count(1)
        self._id_prefix = os.urandom(6).hex().encode()
        self.clients: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError when the address cannot be had."""
        self._server = await self._loop.create_server(
            lambda: ClientConnection(self),
            self.settings.host,
            self.settings.port,
            backlog=_BACKLOG,
            reuse_port=self.settings.workers > 1,
        )
        self._sweeper = asyncio.create_task(self._sweep())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def drain(self) -> bool:
        """Ends: accepts for the lame-duck time, then finishes what runs. True: nothing had to be cut."""
        self.closing = True
        await asyncio.sleep(self.settings.lame_duck)
        assert self._server is not None
        self._server.close()
        for client in list(self.clients):
            client.close_if_idle()
        finished = await self._wait_until_empty()
        await self.stop()
        return finished

    async def stop(self) -> None:
        """Ends at once, whatever runs."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.transport.abort()
        self.pool.close()
        if self.access_log is not None:
            await self.access_log.close()

    async def _wait_until_empty(self) -> bool:
        if not self.clients:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), self.settings.drain_timeout)
        except TimeoutError:
            return False
        return True

    async def _sweep(self) -> None:
        """Ends what has passed its deadline: one look at all connections instead of a timer for each."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.now()
            for client in [c for c in self.clients if c.deadline < now]:
                client.expire()
            self.pool.sweep(now)
            if self.access_log is not None:
                self.access_log.flush()

    # --- the connections' side

    def joined(self, client: ClientConnection) -> None:
        self.clients.add(client)
        self.figures.client_connections += 1

    def left(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        self.figures.client_connections -= 1
        if not self.clients:
            self._empty.set()

    def authorize(self, head: RequestHead, account: Account) -> None:
        """Asks for the API key, if there are any. Raises WrongKeyError."""
        if self.keyring is None:
            return
        given = [value for name, value in head.headers if name.lower() == _AUTHORIZATION]
        head.nominated |= {_AUTHORIZATION}  # it is the router's; no pod is to see it
        account.belongs_to(self.keyring.find(given[0] if given else None))

    def open_account(self, head: RequestHead, request_id: bytes) -> Account:
        """Begins a trace and a line of the access log, as the settings want it."""
        trace, begun = trace_of(head.headers) or b"", b""
        if self.settings.trace and not trace:
            trace, begun = new_trace(os.urandom(24))
            head.nominated |= CONTEXT  # what is there is not valid
        log = self.access_log if self.access_log is not None and self.access_log.wants() else None
        return Account(log, entry_of(head, request_id, trace), begun, self.now())

    def route(self, request: Request, account: Account | None) -> Tries:
        """Where a request goes, by its body. Raises RouterError when nowhere, or not yet."""
        asked = read_body(request.body)
        namespace = None
        if account is not None:
            account.asked(asked.model, len(request.body), streams=asked.streams)
            if account.key is not None:
                account.key.check_rate(self.now())
            namespace = account.namespace
        features = Features(asked, request.head.headers, self.session_header)
        route = self.registry.route(features, namespace)
        name = route.deployment.name_at_pods(asked.model)
        if name != asked.model:
            request.replace_body(renamed(request.body, name))
        return Tries(route, features, self.figures, self.settings.max_tries)

    def note(self, account: Account | None, status: int) -> None:
        """Closes the account of a request that the router answered itself."""
        if account is not None:
            account.close(status, "", "", 0, self.now())

    def new_id(self) -> bytes:
        """A request id: unique, cheap, and without meaning."""
        return b"%b-%x" % (self._id_prefix, next(self._ids))
