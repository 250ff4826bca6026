"""Discovery against an API server that lists, watches, expires and goes away as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.router.loopback import until

from octavo_router import discovery as discovery_module
from octavo_router.discovery import Discovery
from octavo_router.errors import UnknownModelError
from octavo_router.kubeconfig import Access
from octavo_router.metrics import Figures
from octavo_router.registry import Registry
from octavo_router.settings import Settings

Object = dict[str, Any]


def deployment(name: str, namespace: str = "default", **spec: Any) -> Object:
    created = "2026-01-01T00:00:00Z"
    return {"metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec}


def endpoint(address: str, **conditions: bool) -> Object:
    return {
        "addresses": [address],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "uid": f"uid-{address}"},
    }


def endpoint_slice(name: str, of: str, *endpoints: Object, namespace: str = "default") -> Object:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"octavo.dev/deployment": of}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": 8000}],
    }


class FakeApiServer:
    """Two collections with a common version, as the real server has it."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[str, Object]] = {"llmdeployments": {}, "endpointslices": {}}
        self.watches: dict[str, list[asyncio.Queue[Object | None]]] = {
            "llmdeployments": [],
            "endpointslices": [],
        }
        self.requests: list[web.Request] = []
        self.lists = 0
        self.expired: set[str] = set()  # collections whose next watch is answered with 410
        self.page = 500
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for kind in self.watches:
            self.end_watches(kind)
        assert self._runner is not None
        await self._runner.cleanup()

    def put(self, kind: str, found: Object) -> None:
        key = f"{found['metadata']['namespace']}/{found['metadata']['name']}"
        self.version += 1
        stored = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        event = "MODIFIED" if key in self.objects[kind] else "ADDED"
        self.objects[kind][key] = stored
        self.send(kind, {"type": event, "object": stored})

    def delete(self, kind: str, name: str) -> None:
        self.version += 1
        gone = self.objects[kind].pop(f"default/{name}")
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.send(kind, {"type": "DELETED", "object": gone})

    def send(self, kind: str, event: Object) -> None:
        for queue in self.watches[kind]:
            queue.put_nowait(event)

    def end_watches(self, kind: str) -> None:
        for queue in self.watches[kind]:
            queue.put_nowait(None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        kind = request.path.rsplit("/", 1)[1]
        if "watch" in request.query:
            return await self._watch(kind, request)
        self.lists += 1
        return self._list(kind, request)

    def _list(self, kind: str, request: web.Request) -> web.Response:
        namespace = (
            request.path.split("/namespaces/")[1].split("/")[0] if "/namespaces/" in request.path else None
        )
        found = [o for o in self.objects[kind].values() if namespace in (None, o["metadata"]["namespace"])]
        start = int(request.query.get("continue") or 0)
        end = start + self.page
        meta = {"resourceVersion": str(self.version)} | ({"continue": str(end)} if end < len(found) else {})
        return web.json_response({"metadata": meta, "items": found[start:end]})

    async def _watch(self, kind: str, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if kind in self.expired:
            self.expired.remove(kind)
            status = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        queue: asyncio.Queue[Object | None] = asyncio.Queue()
        self.watches[kind].append(queue)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self.watches[kind].remove(queue)
        return response


class World:
    """A fake API server, and a registry that discovery keeps."""

    def __init__(self) -> None:
        self.server = FakeApiServer()
        self.figures = Figures()
        self.registry = Registry(self.figures)

    def pods(self, model: str) -> list[str]:
        try:
            return [e.address for e in self.registry.resolve(model).ready]
        except UnknownModelError:
            return []

    def models(self) -> list[str]:
        return [card.id for card in self.registry.cards()]

    @contextlib.asynccontextmanager
    async def discovering(self, namespaces: str = "") -> AsyncIterator[None]:
        access = Access(f"http://127.0.0.1:{self.server.port}", False, lambda: "secret")
        settings = Settings.load({}, watch_namespaces=namespaces)
        task = asyncio.create_task(Discovery(settings, access, self.registry, self.figures).run())
        try:
            await until(lambda: self.figures.synced, "the first sync")
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def watched(self) -> None:
        await until(lambda: all(self.server.watches.values()), "both watches")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.server.start()
    yield world
    await world.server.stop()


async def test_what_is_there_at_the_start_is_known_once_synced(world: World) -> None:
    world.server.put("llmdeployments", deployment("a", servedName="llama", aliases=["gpt"]))
    world.server.put("endpointslices", endpoint_slice("a-1", "a", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    async with world.discovering():
        for name in ("llama", "gpt", "default/a"):
            assert world.pods(name) == ["10.0.0.1:8000", "10.0.0.2:8000"]
        assert world.pods("a") == []
    assert {r.headers["Authorization"] for r in world.server.requests} == {"Bearer secret"}
    slices = [r for r in world.server.requests if r.path.endswith("endpointslices")]
    assert {r.query["labelSelector"] for r in slices} == {
        "octavo.dev/deployment,!service.kubernetes.io/headless"
    }


async def test_a_list_of_many_pages_is_read_to_its_end(world: World) -> None:
    world.server.page = 3
    for number in range(10):
        world.server.put("llmdeployments", deployment(f"m{number}"))
    async with world.discovering():
        assert world.models() == [f"m{number}" for number in range(10)]


async def test_changes_arrive_by_the_watch(world: World) -> None:
    server = world.server
    async with world.discovering():
        await world.watched()
        server.put("endpointslices", endpoint_slice("a-1", "a", endpoint("10.0.0.1", ready=True)))
        server.put("llmdeployments", deployment("a"))
        await until(lambda: world.pods("a") == ["10.0.0.1:8000"])
        kept = world.registry.resolve("a").ready[0]
        server.put("endpointslices", endpoint_slice("a-2", "a", endpoint("10.0.0.2")))
        await until(lambda: world.pods("a") == ["10.0.0.1:8000", "10.0.0.2:8000"])
        assert world.registry.resolve("a").ready[0] is kept, "a pod that stays keeps its counts"
        server.delete("endpointslices", "a-1")
        await until(lambda: world.pods("a") == ["10.0.0.2:8000"])
        assert kept.withdrawn
        server.delete("llmdeployments", "a")
        await until(lambda: world.models() == [])


async def test_a_pod_that_terminates_or_is_unready_is_withdrawn(world: World) -> None:
    async with world.discovering():
        await world.watched()
        world.server.put("llmdeployments", deployment("a"))
        gone = endpoint("10.0.0.2", ready=False, serving=True, terminating=True)
        pods = (endpoint("10.0.0.1", ready=True), gone, endpoint("10.0.0.3", ready=False))
        world.server.put("endpointslices", endpoint_slice("a-1", "a", *pods))
        await until(lambda: world.pods("a") == ["10.0.0.1:8000"])


async def test_after_a_410_what_vanished_meanwhile_is_forgotten(world: World) -> None:
    server = world.server
    server.put("llmdeployments", deployment("old"))
    async with world.discovering():
        await world.watched()
        del server.objects["llmdeployments"]["default/old"]  # unseen by the watch
        server.put("llmdeployments", deployment("new"))
        server.expired.add("llmdeployments")
        server.end_watches("llmdeployments")
        await until(lambda: world.models() == ["new"])


async def test_a_watch_goes_on_where_the_last_one_ended(world: World) -> None:
    server = world.server
    async with world.discovering():
        await world.watched()
        server.version += 5
        bookmark = {"metadata": {"resourceVersion": str(server.version)}}
        server.send("llmdeployments", {"type": "BOOKMARK", "object": bookmark})
        before = len(server.requests)
        server.end_watches("llmdeployments")
        await until(lambda: len(server.requests) > before)
        assert server.requests[before].query["resourceVersion"] == str(server.version)
        assert server.lists == 2, "one for each collection"


async def test_while_the_api_server_is_away_the_router_keeps_what_it_knows(world: World) -> None:
    server = world.server
    server.put("llmdeployments", deployment("a"))
    async with world.discovering():
        await world.watched()
        await server.stop()
        await until(lambda: world.figures.watch_restarts > 2, "attempts to watch again")
        assert world.models() == ["a"]
        server.put("llmdeployments", deployment("b"))
        await server.start()
        server.expired.add("llmdeployments")
        await until(lambda: world.models() == ["a", "b"])


async def test_a_watch_that_breaks_after_it_brought_something_is_soon_begun_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def noted(failures: int) -> float:
        waits.append(failures)
        return 0.0

    async def breaks(kind: str, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        bookmark = {"metadata": {"resourceVersion": str(world.server.version)}}
        await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    monkeypatch.setattr(discovery_module, "_delay_s", noted)
    world.server._watch = breaks  # type: ignore[method-assign]
    async with world.discovering():
        await until(lambda: len(waits) > 9, "some attempts")
    assert set(waits[:9]) == {0}


async def test_an_object_longer_than_any_buffer_is_read(world: World) -> None:
    async with world.discovering():
        await world.watched()
        world.server.put("llmdeployments", {**deployment("a"), "status": {"message": "x" * 1_000_000}})
        await until(lambda: world.models() == ["a"])


async def test_only_the_namespaces_that_are_named_are_watched(world: World) -> None:
    world.server.put("llmdeployments", deployment("a", "one"))
    world.server.put("llmdeployments", deployment("b", "two"))
    world.server.put("llmdeployments", deployment("c", "three"))
    async with world.discovering("one, two"):
        assert world.models() == ["a", "b"]
    assert {r.path.split("/")[-2] for r in world.server.requests} == {"one", "two"}


async def test_it_is_not_synced_before_both_collections_are_listed(world: World) -> None:
    refused = asyncio.Event()
    original = world.server._list

    def forbidden(kind: str, request: web.Request) -> web.Response:
        if kind == "endpointslices" and not refused.is_set():
            return web.json_response({"message": "forbidden"}, status=403)
        return original(kind, request)

    world.server._list = forbidden  # type: ignore[method-assign]
    async with contextlib.AsyncExitStack() as stack:
        entered = asyncio.create_task(stack.enter_async_context(world.discovering()))
        await until(lambda: world.figures.watch_restarts > 1, "a second attempt")
        assert not world.figures.synced
        refused.set()
        await entered
        assert world.figures.synced
