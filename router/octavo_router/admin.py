"""The admin port: /healthz, /readyz, /metrics, /usage, and the page for people. Not on the data path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from octavo_router.metrics import Figures, RouterCollector
from octavo_router.overview import Overview
from octavo_router.page import HEADERS, HTML, Page
from octavo_router.settings import Settings

log = logging.getLogger("octavo.router")

Ailment = Callable[[], str | None]
"""Gives the reason why something is not as it should be, or None."""


def create_app(figures: Callable[[], Figures], unready: Ailment, broken: Ailment) -> FastAPI:
    """The admin app. `unready`: no requests should come here; `broken`: only a restart will mend it."""
    app = FastAPI(title="Octavo router", docs_url=None, redoc_url=None, openapi_url=None)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(RouterCollector(figures))
    pod = os.urandom(8).hex()

    @app.get("/healthz")
    async def healthz(response: Response) -> dict[str, str]:
        return _verdict(broken(), response)

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        return _verdict(unready(), response)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/usage")
    async def usage() -> dict[str, Any]:
        """For other routers: tokens that have been used here of each limit."""
        return {"pod": pod, "tokens": figures().limited_tokens()}

    return app


def add_page(app: FastAPI, page: Page) -> None:
    """Serves the page at `/`."""

    @app.get("/")
    async def html() -> Response:
        return HTMLResponse(HTML, headers=HEADERS)

    @app.get("/page.json")
    async def document(response: Response) -> dict[str, Any]:
        response.headers.update(HEADERS)
        return page.document()


def _verdict(ailment: str | None, response: Response) -> dict[str, str]:
    if ailment is None:
        return {"status": "ok"}
    response.status_code = 503
    return {"status": "unavailable", "message": ailment}


class AdminServer(uvicorn.Server):
    """uvicorn on the router's own loop; the signals stay the router's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def admin_server(app: FastAPI) -> AdminServer:
    """A server for `AdminServer.serve(sockets=...)`."""
    return AdminServer(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))


def admin_socket(settings: Settings) -> socket.socket:
    """Listens on the admin port. Raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.admin_port), family=family)


@contextlib.asynccontextmanager
async def administered(
    settings: Settings,
    figures: Callable[[], Figures],
    models: Callable[[], Overview],
    unready: Ailment,
    broken: Ailment,
) -> AsyncIterator[None]:
    """Serves the admin port. Raises OSError when the address cannot be had."""
    listening = admin_socket(settings)
    app, page = create_app(figures, unready, broken), Page(models)
    server = admin_server(app)
    watching = None
    if settings.page:
        add_page(app, page)
        watching = asyncio.create_task(page.run())
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    log.info("health and metrics on port %d", listening.getsockname()[1])
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
