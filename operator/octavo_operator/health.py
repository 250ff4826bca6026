"""The operator's own HTTP: /healthz, /readyz and /metrics."""

import time
from collections.abc import Callable

from aiohttp import web

from octavo_operator.telemetry import Telemetry

MOST_SILENT = (
    300.0  # seconds; a watch gets a bookmark about once a minute, and reconnects after 100 s without one
)


def application(
    telemetry: Telemetry,
    is_synced: Callable[[], bool],
    last_heard: Callable[[], float],
    has_begun: Callable[[], bool],
) -> web.Application:
    """`last_heard` is the monotonic time at which the most silent watch was last heard; `has_begun` says
    whether a SIGTERM is heeded: one that comes earlier ends the process with its Lease in hand."""

    async def healthz(_: web.Request) -> web.Response:
        silent = time.monotonic() - last_heard()
        if is_synced() and silent > MOST_SILENT:
            return web.Response(status=503, text=f"a watch has been silent for {silent:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not is_synced():
            return web.Response(status=503, text="caches are being filled\n")
        if not has_begun():
            return web.Response(status=503, text="the process is starting\n")
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        body = telemetry.exposition(request.query.getall("name[]", ()))  # as in Prometheus' own clients
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
