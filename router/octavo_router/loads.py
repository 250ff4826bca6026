"""Asks pods how much they have to do, so that routers know of each other's requests.

An engine's `/health` tells its load. A pod is asked when its model is busy and it has not been for `load_age`
seconds: at most once in that time, by each router, off the data path. A header on every response would be
fresher by less than a second, and it would make every response's head another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from octavo_router.endpoints import Endpoint, Route
from octavo_router.registry import Registry
from octavo_router.settings import Settings

_BUSY_S = 5.0  # for so long after its last request a model counts as busy
_DUMB_S = 60.0  # after which a pod that does not tell its load is asked again
_TIMEOUT_S = 1.0
_AT_ONCE = 32


class _Health(msgspec.Struct):
    load: int


_decode = msgspec.json.Decoder(_Health).decode


class LoadWatch:
    """Keeps `Endpoint.load` fresh."""

    def __init__(self, registry: Registry, age_s: float) -> None:
        self._registry = registry
        self._age_s = age_s
        self._seen: dict[str, tuple[int, float]] = {}  # key -> requests, and when they last grew

    async def run(self) -> None:
        """Runs until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=_AT_ONCE, keepalive_timeout=max(15.0, 2 * self._age_s))
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                await asyncio.sleep(self._age_s / 2)
                await asyncio.gather(*[self._ask(session, e) for e in self._stale(time.monotonic())])

    def _stale(self, now: float) -> list[Endpoint]:
        busy = [route for route in self._registry.routes() if self._is_busy(route, now)]
        oldest = now - self._age_s / 2
        return [e for route in busy for e in route.ready if e.heard_at < oldest]

    def _is_busy(self, route: Route, now: float) -> bool:
        key, requests = route.deployment.key, route.requests
        seen, since = self._seen.get(key, (0, -_BUSY_S))
        if requests != seen or route.figures.in_flight:
            self._seen[key] = requests, now
            return True
        return now - since < _BUSY_S

    async def _ask(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        try:
            async with session.get(f"http://{endpoint.address}/health") as response:
                told = _decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            endpoint.heard_at = time.monotonic()  # whether it is alive is for requests to find out
        except (msgspec.MsgspecError, UnicodeDecodeError):
            endpoint.heard_at = time.monotonic() + _DUMB_S
        else:
            endpoint.report(told.load, time.monotonic())


@contextlib.asynccontextmanager
async def asking_loads(settings: Settings, registry: Registry) -> AsyncIterator[None]:
    """Runs a watch of loads, unless the settings say never."""
    if not settings.load_age:
        yield
        return
    watching = asyncio.create_task(LoadWatch(registry, settings.load_age).run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
