"""A watch that keeps a cache of one kind true: it never ends, and it never forgets what has vanished."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from octavo_operator.api_client import ApiClient
from octavo_operator.errors import ApiError, ExpiredError, NotFoundError, RefusedError, from_status
from octavo_operator.kinds import kind_at
from octavo_operator.names import DEPLOYMENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from octavo_operator.work_queue import delay_after

log = logging.getLogger(__name__)

OURS = {"labelSelector": f"{MANAGED_BY_LABEL}={MANAGED_BY},{DEPLOYMENT_LABEL}"}
SILENCE = 100.0  # seconds; bookmarks come about once a minute
LONGEST = 300  # seconds after which the server ends a watch
INVALID = 422
PAGE = 500  # objects of one request, where they are listed
INITIAL_END = "k8s.io/initial-events-end"


class Versioned(Protocol):
    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=Versioned)


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = "0"
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct, gc=False):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    code: int = 0
    reason: str = ""
    message: str = ""


class _ListMeta(msgspec.Struct, rename="camel", gc=False):
    resource_version: str
    further: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, gc=False):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


Name = tuple[str, str]
Changed = Callable[[T | None, T | None], None]
"""Called with the former and the present object; None is absence."""

_event_decoder = msgspec.json.Decoder(_Event)
_object_decoder = msgspec.json.Decoder(_Object)
_page_decoder = msgspec.json.Decoder(_Page)


class Informer(Generic[T]):
    """Selected objects of one collection, by namespace and name: those that carry the operator's labels."""

    def __init__(
        self,
        client: ApiClient,
        path: str,
        decode: Callable[[bytes | msgspec.Raw], T],
        changed: Changed[T],
        selector: Mapping[str, str] = OURS,
        silence: float = SILENCE,
    ) -> None:
        self._client = client
        self._path = path
        self._decode = decode
        self._changed = changed
        self._selector = selector
        self._silence = silence
        self._objects: dict[Name, T] = {}
        self._version = 0  # to go on from; 0: all is to be told anew
        self._passed = 0  # all changes up to this version have been heard
        self._streamed: set[Name] | None = None  # names of the initial events, until their end
        self._lists = False  # the API server has no initial events
        self._failures = 0  # watches in a row that broke before they told anything
        self._expiries = 0  # times in a row that a watch had to start over
        self.synced = asyncio.Event()
        self.heard = time.monotonic()

    def get(self, name: Name) -> T | None:
        return self._objects.get(name)

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def learn(self, name: Name, found: T) -> None:
        """Take in the answer to an own write, unless the watch is past it already."""
        known = self._objects.get(name)
        if found.version > max(self._passed, known.version if known is not None else 0):
            self._objects[name] = found

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._watch()
                self._failures = self._expiries = 0
            except ExpiredError:
                self._version = 0
                await _pause(self._expiries)
                self._expiries += 1
            except (ApiError, msgspec.MsgspecError) as error:
                hint = "; is its CRD installed?" if isinstance(error, NotFoundError) else ""
                log.warning("watch of %s: %s%s", self._path, error, hint)
                await _pause(self._failures)
                self._failures += 1

    async def _watch(self) -> None:
        if self._lists and not self._version:
            await self._list()
        try:
            async with self._client.lines(self._path, self._query(), self._silence) as lines:
                await self._follow(lines)
        except RefusedError as error:
            if self._version or error.status != INVALID:
                raise
            log.info("%s is listed: the API server's feature gate WatchList is off", self._path)
            self._lists = True

    async def _list(self) -> None:
        """Take in page after page, all of one version, from which the watch goes on."""
        self._streamed = set()
        query = {**self._selector, "limit": str(PAGE)}
        further = True
        while further:
            answer = await self._client.request("GET", self._path, kind=kind_at(self._path), query=query)
            page = _page_decoder.decode(answer)
            for item in page.items or ():
                meta = _object_decoder.decode(item).metadata
                self._heard_of((meta.namespace, meta.name), int(meta.resource_version), item)
            self.heard = time.monotonic()
            query["continue"] = page.metadata.further
            further = page.metadata.further != ""
        self._version = int(page.metadata.resource_version)
        self._passed = max(self._passed, self._version)
        self._end_of_initial_events(self._version)

    def _query(self) -> dict[str, str]:
        query = {
            "watch": "1",
            **self._selector,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(LONGEST // 2, LONGEST)),
        }
        if self._version:
            return {**query, "resourceVersion": str(self._version)}
        self._streamed = set()
        return {**query, "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    async def _follow(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            if line:
                goes_on = self._streamed is None
                self._take(_event_decoder.decode(line))
                self.heard = time.monotonic()
                self._failures = 0
                if goes_on:  # initial events do not show that the next watch will not have to start over
                    self._expiries = 0

    def _take(self, event: _Event) -> None:
        head = _object_decoder.decode(event.object)
        if event.type == "ERROR":
            raise from_status(head.code, head.reason, head.message)
        meta, version = head.metadata, int(head.metadata.resource_version)
        if event.type == "BOOKMARK":
            if meta.annotations.get(INITIAL_END) == "true":
                self._end_of_initial_events(version)
        elif event.type == "DELETED":
            self._put((meta.namespace, meta.name), None)
        else:
            self._heard_of((meta.namespace, meta.name), version, event.object)
        if self._streamed is None:
            self._version = max(self._version, version)
        if self._streamed is None or event.type != "ADDED":  # initial events are in no order of versions
            self._passed = max(self._passed, version)

    def _heard_of(self, name: Name, version: int, data: msgspec.Raw) -> None:
        """What the cache has already, such as the echo of an own write, is not decoded again."""
        known = self._objects.get(name)
        if known is not None and known.version >= version:
            self._put(name, known)
            return
        try:
            self._put(name, self._decode(data))
        except msgspec.ValidationError as error:  # the former object stays
            log.error("%s %s/%s does not fit its schema, is its CRD current? %s", self._path, *name, error)
            if self._streamed is not None:
                self._streamed.add(name)

    def _put(self, name: Name, found: T | None) -> None:
        former = self._objects.get(name)
        if found is None:
            self._objects.pop(name, None)
        elif former is None or found.version >= former.version:
            self._objects[name] = found
        if self._streamed is not None and found is not None:
            self._streamed.add(name)
        self._changed(former, self._objects.get(name))

    def _end_of_initial_events(self, version: int) -> None:
        """What the cache has and the server did not stream has vanished, unless it was made since then."""
        streamed, self._streamed = self._streamed or set(), None
        for name in [n for n, o in self._objects.items() if n not in streamed and o.version <= version]:
            self._put(name, None)
        self.synced.set()


async def _pause(failures: int) -> None:
    await asyncio.sleep(delay_after(failures) * random.uniform(0.5, 1))
