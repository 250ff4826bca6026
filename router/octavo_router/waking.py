"""Asks for a pod of a model that was scaled to zero, by a word in its status that the operator acts upon.

The word stands in the API server until the operator has read it, so neither has to be there when the other
is. It is written anew from time to time while requests wait: by that the operator knows that they do. When
none waits, because another deployment has answered it or its client has left, it is written once.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from octavo_router.endpoints import Route
from octavo_router.kubeconfig import Access
from octavo_router.registry import Registry

log = logging.getLogger("octavo.router.waking")

_AGAIN_S = 5.0
_RETRY_S, _LONGEST_RETRY_S = 0.5, 5.0
_TRIES = 5  # for a request that another deployment answers: it is not held, and no other may come
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class Waker:
    """Asks while requests wait; one task for each model."""

    def __init__(self, session: aiohttp.ClientSession, access: Access) -> None:
        self._session = session
        self._access = access
        self._asking: dict[Route, asyncio.Task[None]] = {}
        self._failing: set[str] = set()  # keys that have been warned of
        self._words = itertools.count(1)
        self._name = os.urandom(4).hex()

    def wanted(self, route: Route) -> None:
        """A request has found no pod."""
        if route not in self._asking:
            name = f"waking {route.deployment.key}"
            task = self._asking[route] = asyncio.create_task(self._ask_while_held(route), name=name)
            task.add_done_callback(lambda _: self._asking.pop(route, None))

    async def stop(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_while_held(self, route: Route) -> None:
        key, failures = route.deployment.key, 0
        while route.deployment.wakes and not route.ready:
            why_not = await self._ask(key)
            if why_not is None:
                failures = 0
                self._failing.discard(key)
                await asyncio.sleep(_AGAIN_S)
            else:
                self._warn(key, why_not)
                await asyncio.sleep(min(_RETRY_S * 2.0 ** min(failures, 10), _LONGEST_RETRY_S))
                failures += 1
            if not route.holds and (not failures or failures >= _TRIES):
                return
        self._failing.discard(key)

    def _warn(self, key: str, why_not: str) -> None:
        """Once until a call succeeds, or is needed no more."""
        if key not in self._failing:
            self._failing.add(key)
            log.warning("%s cannot be woken yet: %s; trying again while requests wait", key, why_not)

    async def _ask(self, key: str) -> str | None:
        """Write a word that has not been there before; says why when that failed."""
        namespace, _, name = key.partition("/")
        path = f"/apis/octavo.dev/v1alpha1/namespaces/{namespace}/llmdeployments/{name}/status"
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        word = f"{now}-{self._name}-{next(self._words)}"
        body = {"status": {"wakeRequested": word}}
        url = self._access.server + path
        try:
            headers = self._access.headers() | {"Content-Type": "application/merge-patch+json"}
            async with self._session.patch(url, json=body, headers=headers) as response:
                if response.status < 300 or response.status == 404:  # deleted meanwhile
                    return None
                return f"the API server answered {response.status}: {(await response.text())[:300]}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # the token's file, too
            return str(error) or type(error).__name__


@asynccontextmanager
async def waking(access: Access, registry: Registry) -> AsyncIterator[None]:
    """Wakes the registry's models until the block ends."""
    connector = aiohttp.TCPConnector(ssl=access.ssl)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        waker = Waker(session, access)
        registry.on_wanted = waker.wanted
        try:
            yield
        finally:
            await waker.stop()
