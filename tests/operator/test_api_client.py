"""How watches and requests share connections to the API server."""

import asyncio
from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.test_utils import TestServer

from octavo_operator.api_client import CONNECTIONS, Access, ApiClient
from octavo_operator.telemetry import Telemetry


async def answer(request: web.Request) -> web.StreamResponse:
    """A watch stays open, everything else is answered at once."""
    if "watch" not in request.query:
        return web.Response(text="{}")
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first\n")
    await asyncio.Event().wait()
    return response


async def test_any_number_of_watches_leaves_connections_for_requests() -> None:
    app = web.Application()
    app.router.add_get("/things", answer)
    async with TestServer(app, shutdown_timeout=0.1) as server, asyncio.timeout(20):
        access = Access(str(server.make_url("")), False, dict)
        async with ApiClient(access, Telemetry()) as client, AsyncExitStack() as watches:
            for _ in range(CONNECTIONS + 1):
                lines = await watches.enter_async_context(client.lines("/things", {"watch": "1"}, 60.0))
                assert await anext(lines) == b"first"
            assert await client.request("GET", "/things", kind="Thing") == b"{}"
