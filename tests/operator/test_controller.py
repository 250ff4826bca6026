"""All parts together against a server that stands in for the API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, unused_port

from octavo_operator.api_client import CONNECTIONS, Access
from octavo_operator.controller import Running, running
from octavo_operator.informer import INITIAL_END
from octavo_operator.kinds import GROUP_SCALE, LEASE, RESOURCE
from octavo_operator.settings import Settings


def line(kind: str, **told: Any) -> bytes:
    return json.dumps({"type": kind, "object": told}).encode() + b"\n"


class World:
    """A server with `models`, which answers writes of the Lease alone; other requests hang."""

    def __init__(self, models: int = 0) -> None:
        self.models = models
        self.lease_version = 1
        self.renewals = asyncio.Queue[int]()
        self.hanging = 0
        self.all_hang = asyncio.Event()
        self.absent: set[str] = set()  # paths whose watch is answered with 404
        self.refusals = asyncio.Queue[str]()
        self.settings = Settings(
            engine_image="i",
            metrics_api=False,
            bind_address="127.0.0.1",
            http_port=unused_port(),
            identity="me",
            workers=2 * CONNECTIONS,
        )

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self.watch(request)
        if not request.path.startswith(LEASE.path(self.settings.namespace)):
            self.hanging += 1
            if self.hanging == CONNECTIONS:
                self.all_hang.set()
            await asyncio.Event().wait()
        body = await request.json()
        self.lease_version += 1
        self.renewals.put_nowait(self.lease_version)
        meta = {"name": self.settings.lease, "namespace": self.settings.namespace}
        return web.json_response(
            {"metadata": {**meta, "resourceVersion": str(self.lease_version)}, "spec": body["spec"]}
        )

    async def watch(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.absent:
            self.refusals.put_nowait(request.path)
            return web.json_response({"message": "there is no such kind"}, status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(self.models if request.path == RESOURCE.path() else 0):
            meta = {"name": f"m{number}", "namespace": "ml", "uid": f"u{number}", "resourceVersion": "1"}
            await response.write(line("ADDED", metadata=meta, spec={"model": {"source": "package://p"}}))
        end = {"resourceVersion": "1", "annotations": {INITIAL_END: "true"}}
        await response.write(line("BOOKMARK", metadata=end))
        await asyncio.Event().wait()
        return response

    async def status(self, path: str) -> int:
        async with ClientSession() as session:
            url = f"http://127.0.0.1:{self.settings.http_port}{path}"
            async with session.get(url) as answer:
                return answer.status


@asynccontextmanager
async def operator(world: World) -> AsyncIterator[asyncio.Future[Running]]:
    """The operator at work for that world; the future is done when it has started."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", world.answer)
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def live(access: Access) -> None:
        async with running(world.settings, access) as found:
            found.begun.set()  # as kopf does
            started.set_result(found)
            await asyncio.Event().wait()

    async with TestServer(app, shutdown_timeout=0.1) as server, asyncio.timeout(30):
        life = asyncio.create_task(live(Access(str(server.make_url("")), False, dict)))
        try:
            yield started
        finally:
            life.cancel()
            await asyncio.wait([life])


async def test_the_lease_is_renewed_while_every_other_connection_is_taken() -> None:
    world = World(models=2 * CONNECTIONS)
    async with operator(world):
        await world.all_hang.wait()
        while not world.renewals.empty():
            world.renewals.get_nowait()
        await world.renewals.get()


async def test_a_replica_campaigns_when_its_caches_are_full() -> None:
    world = World()
    world.absent.add(GROUP_SCALE.path())
    async with operator(world) as started:
        for _ in range(5):  # by then all other watches have long been told everything
            await world.refusals.get()
        assert (world.renewals.qsize(), started.done()) == (0, False)
        assert (await world.status("/healthz"), await world.status("/readyz")) == (200, 503)
        world.absent.clear()
        await world.renewals.get()
        await started
        assert await world.status("/readyz") == 200
