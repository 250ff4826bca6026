"""Keeps the registry true to the cluster: LLMDeployments and EndpointSlices, listed and then watched.

A watch never gives up: while the API server is away the router goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import msgspec

from octavo_router.endpoints import Address
from octavo_router.keys import Keyring, KeySpec
from octavo_router.kubeconfig import Access
from octavo_router.metrics import Figures
from octavo_router.objects import (
    API_KEYS_LABEL,
    SERVING_SLICES,
    EndpointSlice,
    KeySecret,
    LLMDeployment,
    Meta,
    merge,
)
from octavo_router.registry import Registry
from octavo_router.routing import Deployment
from octavo_router.settings import Settings

log = logging.getLogger("octavo.router.discovery")

_PAGE = 500
_SILENCE_S = 100.0  # bookmarks come about once a minute
_LONGEST_S = 290
_EXPIRED = 410
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 10.0


class _Object(Protocol):
    @property
    def metadata(self) -> Meta: ...


T = TypeVar("T", bound=_Object)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Head(msgspec.Struct):
    metadata: Meta


class _ExpiredError(Exception):
    """The server no longer knows the version to watch from: list anew."""


class _ServerError(Exception):
    """The server said no, in a status."""


_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_decode_head = msgspec.json.Decoder(_Head).decode


Changes = Sequence[tuple[T | None, T | None]]
"""The former and the present object, for each that has changed; None is absence."""


class Reflector(Generic[T]):
    """One collection of one namespace (or of all), mirrored."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        kind: type[T],
        selector: str,
        changed: Callable[[Changes[T]], None],
        figures: Figures,
    ) -> None:
        self._session = session
        self._url = url
        self._decode = msgspec.json.Decoder(kind).decode
        self._query = {"labelSelector": selector} if selector else {}
        self._changed = changed
        self._figures = figures
        self._version = ""  # empty: list first
        self._failures = 0  # since a watch last brought anything
        self._objects: dict[str, T] = {}
        self.synced = asyncio.Event()

    async def run(self, headers: Callable[[], dict[str, str]]) -> None:
        """Lists and watches until it is cancelled. `headers` log in, anew for each request."""
        while True:
            try:
                if not self._version:
                    await self._list(headers())
                if await self._watch(headers()):
                    continue
            except _ExpiredError:
                self._version = ""
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, _ServerError) as error:
                log.warning("%s: %s; going on with what is known", self._url, error or type(error).__name__)
            self._figures.watch_restarts += 1
            await asyncio.sleep(_delay_s(self._failures))
            self._failures += 1

    async def _list(self, headers: dict[str, str]) -> None:
        found: dict[str, T] = {}
        query = self._query | {"limit": str(_PAGE)}
        while True:
            async with self._get(query, headers) as response:
                page = _decode_list(await response.read())
            found |= {item.metadata.key: item for item in map(self._decode, page.items or ())}
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        former, self._objects, self._version = self._objects, found, page.metadata.resource_version
        self._changed([(former.get(key), found.get(key)) for key in former.keys() | found.keys()])
        self.synced.set()

    async def _watch(self, headers: dict[str, str]) -> bool:
        """Follows one watch to its end; False when it brought nothing at all."""
        seconds = random.randint(_LONGEST_S // 2, _LONGEST_S)
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        heard = False
        async with self._get(self._query | query | {"resourceVersion": self._version}, headers) as response:
            async for line in _lines(response.content):
                self._take(_decode_event(line))
                self._failures, heard = 0, True
        return heard

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = _decode_status(event.object)
            raise _ExpiredError if status.code == _EXPIRED else _ServerError(status.message)
        meta = _decode_head(event.object).metadata
        self._version = meta.resource_version
        if event.type == "BOOKMARK":
            return
        former = self._objects.pop(meta.key, None)
        present = None if event.type == "DELETED" else self._decode(event.object)
        if present is not None:
            self._objects[meta.key] = present
        self._changed([(former, present)])

    @asynccontextmanager
    async def _get(
        self, query: dict[str, str], headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._session.get(self._url, params=query, headers=headers) as response:
            if response.status == _EXPIRED:
                raise _ExpiredError
            if response.status != 200:
                text = (await response.text())[:300]
                raise _ServerError(f"the API server answered {response.status}: {text}")
            yield response


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: an object may be longer than aiohttp's own limit for one."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line:
                yield line


def _delay_s(failures: int) -> float:
    return min(_FIRST_DELAY_S * 2.0 ** min(failures, 10), _LONGEST_DELAY_S) * random.uniform(0.5, 1.0)


class Discovery:
    """Mirrors the cluster into the registry."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        registry: Registry,
        figures: Figures,
        keyring: Keyring | None = None,
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._access = access
        self._registry = registry
        self._figures = figures
        self._deployments: dict[str, Deployment] = {}
        self._slices: dict[str, dict[str, frozenset[Address]]] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE_S)
        connector = aiohttp.TCPConnector(ssl=self._access.ssl, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            reflectors = [r for scope in self._scopes() for r in self._reflectors(session, scope)]
            async with asyncio.TaskGroup() as group:
                for reflector in reflectors:
                    group.create_task(reflector.run(self._access.headers))
                for reflector in reflectors:
                    await reflector.synced.wait()
                self._figures.synced = True
                self.synced.set()

    def _scopes(self) -> list[str]:
        return [f"/namespaces/{n}" for n in self._settings.watch_namespaces] or [""]

    def _reflectors(self, session: aiohttp.ClientSession, scope: str) -> list[Reflector[Any]]:
        deployments = f"{self._access.server}/apis/octavo.dev/v1alpha1{scope}/llmdeployments"
        slices = f"{self._access.server}/apis/discovery.k8s.io/v1{scope}/endpointslices"
        reflectors: list[Reflector[Any]] = [
            Reflector(session, deployments, LLMDeployment, "", self._deployments_changed, self._figures),
            Reflector(session, slices, EndpointSlice, SERVING_SLICES, self._slices_changed, self._figures),
        ]
        if self._keyring is not None:
            secrets, selector = f"{self._access.server}/api/v1{scope}/secrets", f"{API_KEYS_LABEL}=true"
            changed = self._secrets_changed
            reflectors.append(Reflector(session, secrets, KeySecret, selector, changed, self._figures))
        return reflectors

    def _secrets_changed(self, changes: Changes[KeySecret]) -> None:
        assert self._keyring is not None
        found: dict[str, tuple[KeySpec, ...]] = {}
        for former, present in changes:
            if present is not None:
                found[present.metadata.key] = present.keys(log.warning)
            elif former is not None:
                found[former.metadata.key] = ()
        self._keyring.replace(found)

    def _deployments_changed(self, changes: Changes[LLMDeployment]) -> None:
        before = dict(self._deployments)
        for former, present in changes:
            if present is not None:
                self._deployments[present.metadata.key] = present.deployment()
            elif former is not None:
                self._deployments.pop(former.metadata.key, None)
        if before != self._deployments:  # most events only bring another status
            self._registry.set_deployments(self._deployments)

    def _slices_changed(self, changes: Changes[EndpointSlice]) -> None:
        touched = set()
        for former, present in changes:
            if former is not None:
                self._slices[former.deployment_key].pop(former.metadata.key, None)
                touched.add(former.deployment_key)
            if present is not None:
                addresses = present.addresses(self._settings.port_name)
                self._slices.setdefault(present.deployment_key, {})[present.metadata.key] = addresses
                touched.add(present.deployment_key)
        for key in touched:
            self._registry.set_addresses(key, merge(self._slices[key].values()))
            if not self._slices[key]:
                del self._slices[key]
