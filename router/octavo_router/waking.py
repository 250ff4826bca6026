"""Asks for a pod of a model that was scaled to zero, by a word in its status that the operator acts upon.

The word stands in the API server until the operator has read it, so neither has to be there when the other
is. It is written anew from time to time while requests wait: by that the operator knows that they do.
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
_RETRY_S = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class Waker:
    """Asks while requests wait; one task for each model."""

    def __init__(self, session: aiohttp.ClientSession, access: Access) -> None:
        self._session = session
        self._access = access
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._words = itertools.count(1)
        self._name = os.urandom(4).hex()

    def wanted(self, route: Route) -> None:
        """A request has found no pod."""
        key = route.deployment.key
        if key not in self._asking:
            task = self._asking[key] = asyncio.create_task(self._ask_while_held(route))
            task.add_done_callback(lambda _: self._asking.pop(key, None))

    async def stop(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_while_held(self, route: Route) -> None:
        while not route.ready:
            asked = await self._ask(route.deployment.key)
            await asyncio.sleep(_AGAIN_S if asked else _RETRY_S)
            if asked and not route.holds:
                return

    async def _ask(self, key: str) -> bool:
        """Write a word that has not been there before; False when that failed."""
        namespace, _, name = key.partition("/")
        path = f"/apis/octavo.dev/v1alpha1/namespaces/{namespace}/llmdeployments/{name}/status"
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        word = f"{now}-{self._name}-{next(self._words)}"
        headers = self._access.headers() | {"Content-Type": "application/merge-patch+json"}
        body = {"status": {"wakeRequested": word}}
        url = self._access.server + path
        try:
            async with self._session.patch(url, json=body, headers=headers) as response:
                if response.status < 300 or response.status == 404:  # deleted meanwhile
                    return True
                text = (await response.text())[:300]
                log.warning("%s cannot be woken: the API server answered %d: %s", key, response.status, text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("%s cannot be woken yet: %s", key, error or type(error).__name__)
        return False


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
