"""The one seam to the API server: what the reconciler reads and writes. FakeCluster stands in in tests."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from octavo_operator.api import LLMDeployment, Status, decode
from octavo_operator.api_client import MERGE, ApiClient
from octavo_operator.child_writer import ChildWriter
from octavo_operator.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from octavo_operator.informer import Changed, Informer
from octavo_operator.kinds import CHILDREN, EVENT, POD, RESOURCE
from octavo_operator.names import DEPLOYMENT_LABEL, Key
from octavo_operator.observed.child import Child, decode_child
from octavo_operator.observed.pod import Pod, decode_pod
from octavo_operator.plan import Apply, Delete


class Cluster(Protocol):
    """What the reconciler needs. Reads of caches are plain functions, everything else may raise ApiError."""

    def children(self, key: Key) -> dict[str, Child]:
        """Cached children by kind."""

    def pods(self, key: Key) -> list[Pod]:
        """Cached engine pods of a resource."""

    async def look_up(self, kind: str, key: Key) -> Child | None:
        """An object that may not be the operator's, asked for directly."""

    async def resource(self, key: Key) -> LLMDeployment | None:
        """The resource itself, asked for directly."""

    async def apply(self, write: Apply) -> Child:
        """Create, or server-side apply, forced; the answer is in the cache afterwards.

        Raises:
            AlreadyExistsError: the write creates, and there is an object of that name.
        """

    async def delete(self, write: Delete) -> None:
        """Delete that very object; its absence is fine."""

    async def patch_status(self, llmd: LLMDeployment, status: Status) -> LLMDeployment:
        """Merge-patch the status and return the resource as it is then."""

    async def record(self, event: Mapping[str, Any], count: int) -> None:
        """Create an Event, or count it up where it has been told before."""


class ApiCluster:
    """The real one: caches are informers, which `run` keeps true."""

    def __init__(
        self,
        client: ApiClient,
        namespaces: Iterable[str],
        changed: Callable[[Key], None],
        heard: Changed[LLMDeployment],
    ) -> None:
        """`changed` hears of resources whose children or pods have changed, `heard` of resources."""
        self._client = client
        self._writer = ChildWriter(client)
        self._changed = changed
        scopes = list(namespaces) or [""]
        self._pods_of: dict[Key, dict[str, Pod]] = {}
        self._named_apart: dict[Key, set[tuple[str, Key]]] = {}  # children not named like their resource
        self._children = {
            (kind.name, scope): Informer(
                client, kind.path(scope), _child_decoder(kind.name), self._child_changed
            )
            for kind in CHILDREN.values()
            for scope in scopes
        }
        self._pods = {
            scope: Informer(client, POD.path(scope), decode_pod, self._pod_changed) for scope in scopes
        }
        self._resources = {
            scope: Informer(client, RESOURCE.path(scope), decode, heard, selector={}) for scope in scopes
        }
        self._scoped = scopes != [""]
        self._writing: set[tuple[str, Key]] = set()

    async def run(self) -> None:
        """Keep the caches true until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers():
                group.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until every cache has been filled once."""
        for informer in self._informers():
            await informer.synced.wait()

    @property
    def is_synced(self) -> bool:
        return all(i.synced.is_set() for i in self._informers())

    @property
    def last_heard(self) -> float:
        """The monotonic time at which the most silent watch was last heard."""
        return min(i.heard for i in self._informers())

    def children(self, key: Key) -> dict[str, Child]:
        places = [*((kind, key) for kind in CHILDREN), *self._named_apart.get(key, ())]
        found = (self._informer(kind, at).get(at) for kind, at in places)
        return {child.slot: child for child in found if child is not None and owner(child) == key}

    def pods(self, key: Key) -> list[Pod]:
        return list(self._pods_of.get(key, {}).values())

    def all_pods(self) -> Iterable[Pod]:
        """Every engine pod."""
        for pods in self._pods.values():
            yield from pods

    def _index(self, former: Child | None, present: Child | None) -> None:
        if former is not None and former.slot != former.kind:
            places = self._named_apart.get(owner(former), set())
            places.discard((former.kind, former.key))
            if not places:
                self._named_apart.pop(owner(former), None)
        if present is not None and present.slot != present.kind:
            self._named_apart.setdefault(owner(present), set()).add((present.kind, present.key))

    async def look_up(self, kind: str, key: Key) -> Child | None:
        return await self._writer.look_up(kind, key)

    async def resource(self, key: Key) -> LLMDeployment | None:
        try:
            return decode(await self._client.request("GET", RESOURCE.path(*key), kind=RESOURCE.name))
        except NotFoundError:
            return None

    async def apply(self, write: Apply) -> Child:
        meta = write.manifest["metadata"]
        key = (meta["namespace"], meta["name"])
        informer, at = self._informer(write.kind, key), (write.kind, key)
        expected = informer.get(key)
        self._writing.add(at)
        try:
            is_applied = expected is not None and not expected.held_by_update
            expected = await self._writer.write(write, key, is_applied)
            informer.learn(key, expected)
            self._index(None, informer.get(key))
        finally:
            self._writing.discard(at)
            if not _same(informer.get(key), expected):  # somebody else has written meanwhile
                self._changed((key[0], meta.get("labels", {}).get(DEPLOYMENT_LABEL, key[1])))
        return expected

    async def delete(self, write: Delete) -> None:
        policy = "Foreground" if write.awaits else "Background"
        options = {"propagationPolicy": policy, "preconditions": {"uid": write.uid}}
        try:
            path = {**CHILDREN, POD.name: POD}[write.kind].path(*write.key)
            await self._client.request("DELETE", path, kind=write.kind, body=options)
        except (NotFoundError, ConflictError):  # the latter: there is another of that name
            return

    async def patch_status(self, llmd: LLMDeployment, status: Status) -> LLMDeployment:
        told = msgspec.to_builtins(status)
        del told["wakeRequested"]  # the router's, who may have written it anew meanwhile
        body = {
            "metadata": {"uid": llmd.metadata.uid},  # never a later resource of that name
            "status": told,
        }
        path = RESOURCE.path(*llmd.key) + "/status"
        answer = await self._client.request("PATCH", path, kind=RESOURCE.name, body=body, content_type=MERGE)
        found = decode(answer)
        self._resources[self._scope(llmd.key)].learn(llmd.key, found)
        return found

    async def record(self, event: Mapping[str, Any], count: int) -> None:
        meta = event["metadata"]
        news = {name: event[name] for name in ("count", "lastTimestamp") if count > 1 or name != "count"}
        create = functools.partial(
            self._client.request, "POST", EVENT.path(meta["namespace"]), kind=EVENT.name, body=event
        )
        update = functools.partial(
            self._client.request,
            "PATCH",
            EVENT.path(meta["namespace"], meta["name"]),
            kind=EVENT.name,
            body=news,
        )
        if count == 1:
            await _first_that(create(), AlreadyExistsError, lambda: update(content_type=MERGE))
        else:  # the API server forgets events after an hour
            await _first_that(update(content_type=MERGE), NotFoundError, create)

    def _informers(self) -> Iterator[Informer[LLMDeployment] | Informer[Child] | Informer[Pod]]:
        yield from self._resources.values()
        yield from self._children.values()
        yield from self._pods.values()

    def _informer(self, kind: str, key: Key) -> Informer[Child]:
        return self._children[kind, self._scope(key)]

    def _scope(self, key: Key) -> str:
        return key[0] if self._scoped else ""

    def _child_changed(self, former: Child | None, present: Child | None) -> None:
        """An own write often comes by the watch before its answer does: `apply` looks at it then."""
        self._index(former, present)
        child = present or former
        if child is None or (child.kind, child.key) in self._writing or _same(present, former):
            return
        for key in {owner(c) for c in (former, present) if c is not None}:
            self._changed(key)

    def _pod_changed(self, former: Pod | None, present: Pod | None) -> None:
        if former is not None:
            self._pods_of.get(former.key, {}).pop(former.name, None)
            if not self._pods_of.get(former.key, True):
                del self._pods_of[former.key]
        if present is not None:
            self._pods_of.setdefault(present.key, {})[present.name] = present
        pod = present or former
        if pod is not None and not (present and present.same_as(former)):
            self._changed(pod.key)


def owner(child: Child) -> Key:
    """The resource that a child belongs to: the one of its name, or another whose label it carries."""
    namespace, name = child.key
    return namespace, child.resource if child.slot != child.kind else name


def _same(one: Child | None, other: Child | None) -> bool:
    return one is other if one is None else one.same_as(other)


async def _first_that(
    one: Awaitable[bytes], unless: type[ApiError], other: Callable[[], Awaitable[bytes]]
) -> None:
    try:
        await one
    except unless:
        await other()


def _child_decoder(kind: str) -> Callable[[bytes | msgspec.Raw], Child]:
    return lambda data: decode_child(kind, data)
