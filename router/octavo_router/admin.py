"""The admin port: /healthz, /readyz, /metrics. Not on the data path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from octavo_router.metrics import Figures, RouterCollector
from octavo_router.settings import Settings


def create_app(figures: Figures, why_unready: Callable[[], str | None]) -> FastAPI:
    """The admin app. `why_unready` gives the reason why no requests should come here, or None."""
    app = FastAPI(title="Octavo router", docs_url=None, redoc_url=None, openapi_url=None)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(RouterCollector(figures))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        reason = why_unready()
        if reason is None:
            return {"status": "ok"}
        response.status_code = 503
        return {"status": "unready", "message": reason}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class AdminServer(uvicorn.Server):
    """uvicorn on the router's own loop; the signals stay the router's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def admin_server(settings: Settings, app: FastAPI) -> AdminServer:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.admin_port,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    return AdminServer(config)
