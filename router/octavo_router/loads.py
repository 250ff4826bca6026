"""Asks pods how much they have to do, so that routers know of each other's requests.

An engine's `/health` tells its load. A pod is asked when its model is busy and it has not been for `load_age`
seconds: at most once in that time, by each router. A header on every response would be fresher by less than a
second, and it would make every response's head another one.

Questions go over the data path's own connections, and in turns: when an HTTP client asked all pods at once,
64 pods held every stream up for ten milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from octavo_router.background import at_work
from octavo_router.endpoints import Endpoint, Route
from octavo_router.errors import RouterError
from octavo_router.proxy.heads import ResponseHead
from octavo_router.proxy.pool import Pool
from octavo_router.proxy.upstream import UpstreamConnection
from octavo_router.registry import Registry
from octavo_router.settings import Settings

_BUSY_S = 5.0  # for so long after its last request a model counts as busy
_DUMB_S = 60.0  # after which a pod that does not tell its load is asked again
_TIMEOUT_S = 1.0
_TURNS = 20  # in `load_age`; within half of them all pods have been asked
_MOST_BYTES = 65_536


class _Health(msgspec.Struct):
    load: int


_decode = msgspec.json.Decoder(_Health).decode


class Question:
    """One pod, asked once."""

    __slots__ = ("_body", "_connecting", "_ended", "_upstream", "endpoint", "since")

    def __init__(self, endpoint: Endpoint, ended: Callable[[Question], None], now: float) -> None:
        self.endpoint = endpoint
        self.since = now
        self._ended = ended
        self._body = b""
        self._connecting: asyncio.Task[None] | None = None
        self._upstream: UpstreamConnection | None = None

    def ask(self, pool: Pool) -> None:
        idle = pool.take(self.endpoint)
        if idle is not None:
            self.connected(idle)
        else:
            self._connecting = pool.connect(self.endpoint, self)

    def give_up(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.abandon()
        self.lost()

    # --- the connection's side

    def connected(self, upstream: UpstreamConnection) -> None:
        self._connecting, self._upstream = None, upstream
        upstream.send(self, b"GET /health HTTP/1.1\r\nhost: %b\r\n\r\n" % self.endpoint.host_header, b"")

    def unconnected(self) -> None:
        self.lost()

    def begin(self, head: ResponseHead) -> None:
        """Whatever the status: a pod that drains has a load, too."""

    def forward(self, body: bytes, last: bool) -> None:
        self._body += body
        if last:
            self._hear()
        elif len(self._body) > _MOST_BYTES:
            self.give_up()

    def lost(self) -> None:
        self._end(time.monotonic())  # whether it is alive is for requests to find out

    def fail(self, error: RouterError) -> None:
        self._end(time.monotonic() + _DUMB_S)

    def _hear(self) -> None:
        try:
            load = _decode(self._body).load
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._end(time.monotonic() + _DUMB_S)
        else:
            self.endpoint.report(load, time.monotonic())
            self._end(self.endpoint.heard_at)

    def _end(self, heard_at: float) -> None:
        self._upstream = None
        self.endpoint.heard_at = heard_at
        self._ended(self)


class LoadWatch:
    """Keeps `Endpoint.load` fresh."""

    def __init__(self, registry: Registry, pool: Pool, age_s: float) -> None:
        self._registry = registry
        self._pool = pool
        self._age_s = age_s
        self._seen: dict[str, tuple[int, float]] = {}  # key -> requests, and when they last grew
        self._open: dict[Endpoint, Question] = {}  # the oldest first

    async def run(self) -> None:
        """Runs until it is cancelled."""
        try:
            while True:
                await asyncio.sleep(self._age_s / _TURNS)
                self.turn(time.monotonic())
        finally:
            self._give_up(math.inf)

    def turn(self, now: float) -> None:
        """Asks a share of the pods, those that have not been heard of for longest."""
        self._give_up(now - _TIMEOUT_S)
        busy = [e for r in self._registry.routes() if self._is_busy(r, now) for e in r.ready]
        oldest = now - self._age_s / 2
        stale = [e for e in busy if e.heard_at < oldest and e not in self._open]
        for endpoint in heapq.nsmallest(math.ceil(2 * len(busy) / _TURNS), stale, key=lambda e: e.heard_at):
            self._open[endpoint] = question = Question(endpoint, self._ended, now)
            question.ask(self._pool)

    def _give_up(self, before: float) -> None:
        for question in [q for q in self._open.values() if q.since < before]:
            question.give_up()

    def _ended(self, question: Question) -> None:
        self._open.pop(question.endpoint, None)

    def _is_busy(self, route: Route, now: float) -> bool:
        key, requests = route.deployment.key, route.requests
        seen, since = self._seen.get(key, (0, -_BUSY_S))
        if requests != seen or route.figures.in_flight:
            self._seen[key] = requests, now
            return True
        return now - since < _BUSY_S


@contextlib.asynccontextmanager
async def asking_loads(settings: Settings, registry: Registry, pool: Pool) -> AsyncIterator[None]:
    """Runs a watch of loads, unless the settings say never."""
    if not settings.load_age:
        yield
        return
    async with at_work(LoadWatch(registry, pool, settings.load_age).run()):
        yield
