"""All parts of the operator put together, without kopf: kopf only feeds `Controller.store`."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from octavo_operator import health
from octavo_operator.api_client import Access, ApiClient
from octavo_operator.cluster import ApiCluster
from octavo_operator.names import Key
from octavo_operator.reconcile import Reconciler
from octavo_operator.scaling.service import MetricsService
from octavo_operator.settings import Settings, defaults
from octavo_operator.store import Store
from octavo_operator.telemetry import Telemetry
from octavo_operator.work_queue import WorkQueue, work


class Controller:
    """Caches, queue and workers of one operator."""

    def __init__(self, client: ApiClient, settings: Settings, telemetry: Telemetry) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self.store = Store(self.queue.add)
        self.cluster = ApiCluster(client, settings.watch_namespaces, self._child_changed)
        self._reconciler = Reconciler(self.cluster, self.store, defaults(settings), telemetry, _now)
        self._workers = settings.workers
        self.started = asyncio.Event()
        telemetry.watch(lambda: len(self.queue), lambda: len(self.store))

    def _child_changed(self, key: Key) -> None:
        if self.store.get(key) is not None:
            self.queue.add(key)

    async def run(self) -> None:
        """Watch and work until cancelled. Workers start when all caches are full: less looks like drift."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cluster.run())
            await self.cluster.synced()
            for _ in range(self._workers):
                group.create_task(work(self.queue, self._reconciler.reconcile))
            self.started.set()


@asynccontextmanager
async def running(settings: Settings, access: Access) -> AsyncIterator[Controller]:
    """A controller at work, with its HTTP endpoints; its tasks end with the block, a failed one ends it."""
    telemetry = Telemetry()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ApiClient(access, telemetry))
        controller = Controller(client, settings, telemetry)
        app = health.application(
            telemetry, lambda: controller.cluster.is_synced, lambda: controller.cluster.last_heard
        )
        await stack.enter_async_context(serving(app, settings.bind_address, settings.http_port))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [group.create_task(controller.run())]
        if settings.metrics_api:
            tasks.append(
                group.create_task(MetricsService(client, controller.cluster, settings, telemetry).run())
            )
        stack.callback(controller.queue.close)
        for task in tasks:
            stack.callback(task.cancel)
        await controller.started.wait()  # kopf takes later tasks for its own, and waits for their end
        yield controller


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """An aiohttp application that answers while the block runs."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
