"""Asks every ready engine pod for its metrics once a second."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import aiohttp

from octavo_operator.names import PORT
from octavo_operator.observed import Pod
from octavo_operator.scaling.samples import Sample, Samples, parse
from octavo_operator.telemetry import Telemetry

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
AT_ONCE = 64
LONGEST = 1 << 20  # bytes of an answer


class Scraper:
    """Fills `samples`; a pod that is not ready, or does not answer, has none."""

    def __init__(
        self, pods: Callable[[], Iterable[Pod]], samples: Samples, telemetry: Telemetry, port: int = PORT
    ) -> None:
        self._pods = pods
        self._samples = samples
        self._telemetry = telemetry
        self._port = port

    async def run(self) -> None:
        """Scrape until cancelled."""
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
            while True:
                begun = time.monotonic()
                await self.round(session)
                await asyncio.sleep(max(0.0, INTERVAL - (time.monotonic() - begun)))

    async def round(self, session: aiohttp.ClientSession) -> None:
        """One scrape of all ready pods."""
        ready = [pod for pod in self._pods() if pod.ready and pod.status.pod_ip]
        self._samples.keep((pod.namespace, pod.name) for pod in ready)
        await asyncio.gather(*(self._scrape(session, pod) for pod in ready))

    async def _scrape(self, session: aiohttp.ClientSession, pod: Pod) -> None:
        host = f"[{pod.status.pod_ip}]" if ":" in pod.status.pod_ip else pod.status.pod_ip
        try:
            async with session.get(f"http://{host}:{self._port}/metrics") as answer:
                answer.raise_for_status()
                values = parse((await answer.content.read(LONGEST)).decode())
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            self._telemetry.scrapes.labels("failed").inc()
            log.debug("scrape of %s/%s: %r", pod.namespace, pod.name, error)
            return
        self._telemetry.scrapes.labels("done").inc()
        self._samples.take((pod.namespace, pod.name), Sample(values, time.time()))
