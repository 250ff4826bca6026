"""All parts of the operator put together, but for kopf, which starts and ends them."""

import asyncio
import datetime
import logging
import socket
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from octavo_operator import health
from octavo_operator.api_client import Access, ApiClient
from octavo_operator.cluster import ApiCluster
from octavo_operator.download_watch import DownloadWatch
from octavo_operator.downloads import Downloads
from octavo_operator.election import Alone, Election
from octavo_operator.listening import serve
from octavo_operator.names import Key
from octavo_operator.reconcile import Reconciler
from octavo_operator.resource_metrics import ResourceCollector
from octavo_operator.scaling.samples import Samples
from octavo_operator.scaling.scraper import Scraper
from octavo_operator.scaling.service import MetricsService
from octavo_operator.scaling.sleeper import Sleeper
from octavo_operator.settings import Settings, defaults
from octavo_operator.store import Store
from octavo_operator.telemetry import Telemetry
from octavo_operator.work_queue import WorkQueue, work

log = logging.getLogger(__name__)


class Controller:
    """Caches, queue and workers of one operator; the workers wait until `election` is won."""

    def __init__(
        self, client: ApiClient, settings: Settings, telemetry: Telemetry, election: Election | Alone
    ) -> None:
        self._election = election
        self.queue: WorkQueue[Key] = WorkQueue()
        self.store = Store(self.queue.add)
        self.cluster = ApiCluster(client, settings.watch_namespaces, self._child_changed, self.store.heard)
        downloads = Downloads()
        self.scraper = Scraper(self.cluster.all_pods, Samples(), telemetry, settings.engine_port)
        self._sleeper = Sleeper(self.store.all, self.cluster.pods, self.scraper, self.queue.add)
        self._reconciler = Reconciler(
            self.cluster,
            self.store,
            defaults(settings),
            telemetry,
            _now,
            downloads,
            self._sleeper.is_idle,
        )
        self._download_watch = DownloadWatch(
            self.cluster.all_pods, downloads, self._child_changed, settings.engine_port
        )
        self._workers = settings.workers
        self.started = asyncio.Event()
        telemetry.watch(lambda: len(self.queue), lambda: len(self.store))
        telemetry.registry.register(ResourceCollector(self.store.all, self.cluster.all_pods))

    def _child_changed(self, key: Key) -> None:
        if self.store.get(key) is not None:
            self.queue.add(key)

    async def run(self) -> None:
        """Watch and work until cancelled. Workers start when all caches are full: less looks like drift."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cluster.run())
            group.create_task(self.scraper.run())
            await self.cluster.synced()
            group.create_task(self._watch_downloads())
            group.create_task(self._look_who_sleeps())
            for _ in range(self._workers):
                group.create_task(self._worker())
            self.started.set()

    async def _watch_downloads(self) -> None:
        await self._election.won.wait()
        await self._download_watch.run()

    async def _look_who_sleeps(self) -> None:
        await self._election.won.wait()
        await self._sleeper.run()

    async def _worker(self) -> None:
        await self._election.won.wait()
        await work(self.queue, self._reconcile)

    async def _reconcile(self, key: Key) -> bool:
        return self._election.leads and await self._reconciler.reconcile(key)


class Running:
    """An operator at work, or standing by."""

    def __init__(
        self, election: Election | Alone, begun: asyncio.Event, tasks: Iterable["asyncio.Task[None]"]
    ) -> None:
        """`begun` is to be set when the process heeds signals."""
        self.begun = begun
        self._election = election
        self._tasks = list(tasks)

    async def stop(self) -> None:
        """End all tasks and connections, wait for that, and let another replica lead."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._election.release()


@asynccontextmanager
async def running(settings: Settings, access: Access) -> AsyncIterator[Running]:
    """The operator's own parts at work, until the block ends or one of them fails.

    Raises:
        SettingsError: in an ExceptionGroup, when a port cannot be had.
        LeadershipLostError: in an ExceptionGroup, when another replica may lead.
    """
    telemetry = Telemetry()
    async with (
        ApiClient(access, telemetry) as client,
        ApiClient(access, telemetry) as renewing,  # never queues behind the workers' writes
        asyncio.TaskGroup() as group,
    ):
        election = _election(renewing, settings, telemetry)
        controller = Controller(client, settings, telemetry, election)
        cluster = controller.cluster
        begun = asyncio.Event()
        app = health.application(
            telemetry, lambda: cluster.is_synced, lambda: cluster.last_heard, begun.is_set
        )
        work_to_do = [
            election.run(cluster.synced),  # a right or a CRD that is missing here may be there for another
            controller.run(),
            serve(app, settings.bind_address, settings.http_port),
        ]
        if settings.metrics_api:
            work_to_do.append(MetricsService(client, cluster, settings, controller.scraper, election).run())
        operator = Running(election, begun, map(group.create_task, work_to_do))
        try:
            await controller.started.wait()  # kopf takes later tasks for its own, and waits for their end
            yield operator
        finally:
            await operator.stop()
            controller.queue.close()


def _election(client: ApiClient, settings: Settings, telemetry: Telemetry) -> Election | Alone:
    if not settings.lease:
        return Alone()
    identity = settings.identity or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    return Election(client, settings.namespace, settings.lease, identity, telemetry)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
