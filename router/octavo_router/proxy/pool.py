"""Connections to the pods: the idle ones of each endpoint, and new ones."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from octavo_router.endpoints import Endpoint
from octavo_router.metrics import Figures
from octavo_router.proxy.upstream import Asker, UpstreamConnection
from octavo_router.settings import Settings


class Caller(Asker, Protocol):
    """Who asks for a new connection."""

    def connected(self, upstream: UpstreamConnection) -> None: ...

    def unconnected(self) -> None: ...


class Pool:
    """Keep-alive connections per endpoint; the most recently used goes out first, and the others age."""

    def __init__(self, settings: Settings, figures: Figures) -> None:
        self._settings = settings
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Endpoint, list[UpstreamConnection]] = {}
        self._open: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def take(self, endpoint: Endpoint) -> UpstreamConnection | None:
        """An idle connection that is still open, or None."""
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def connect(self, endpoint: Endpoint, caller: Caller) -> asyncio.Task[None]:
        """Opens a connection and gives it to the caller; to cancel the task is to give it up."""
        task = self._loop.create_task(self._connect(endpoint, caller))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(self, endpoint: Endpoint, caller: Caller) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self, endpoint), endpoint.host, endpoint.port
                )
        except OSError:  # refused, unreachable, no such host, or TimeoutError
            caller.unconnected()
        else:
            if connection.transport.is_closing():  # opened and lost at once
                caller.unconnected()
            else:
                self._opened(connection)
                caller.connected(connection)

    def _opened(self, connection: UpstreamConnection) -> None:
        # Not in `connection_made`: uvloop never tells the loss of a connection whose opening is given up.
        self._open.add(connection)
        self._figures.upstream_connections += 1
        self._figures.upstream_opened += 1

    def lost(self, connection: UpstreamConnection) -> None:
        """Forgets a closed connection."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._figures.upstream_connections -= 1
        idle = self._idle.get(connection.endpoint)
        if idle and connection in idle:
            idle.remove(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """Takes a connection back after a complete response."""
        if connection.endpoint.withdrawn:
            connection.transport.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.endpoint, []).append(connection)

    def withdraw(self, endpoint: Endpoint) -> None:
        """Closes the idle connections of a pod that gets nothing new."""
        for connection in self._idle.pop(endpoint, []):
            connection.transport.close()

    def sweep(self, now: float) -> None:
        """Closes what has been idle for too long."""
        oldest = now - self._settings.upstream_keepalive
        for idle in self._idle.values():
            for connection in idle:  # the longest idle first
                if connection.idle_since > oldest:
                    break
                connection.transport.close()

    def close(self) -> None:
        """Closes all idle connections and gives up those that are being opened."""
        for endpoint in list(self._idle):
            self.withdraw(endpoint)
        for task in self._connecting:
            task.cancel()
