"""Asks ready engine pods for their metrics every 0.75 s, while somebody asks this replica for them."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

import aiohttp

from octavo_operator.names import PORT, Key
from octavo_operator.observed.pod import Pod
from octavo_operator.pod_answer import read, url
from octavo_operator.scaling.samples import PodName, Sample, Samples, parse
from octavo_operator.telemetry import Telemetry

log = logging.getLogger(__name__)

INTERVAL = 0.75
"""Seconds. The mean of three samples is 0.75 s older than the last one, and the last up to 0.75 s old: what
an HPA hears is at most 1.5 s old, which leaves half a second of the two for slow pods."""
INTEREST = 60.0  # seconds; an HPA asks every 15
TIMEOUT = aiohttp.ClientTimeout(total=1.0)  # one slow pod must not age the others' samples
AT_ONCE = 64
LONGEST = 1 << 20  # bytes of an answer


class Scraper:
    """Fills `samples`; a pod that is not ready, or does not answer, has none.

    Every replica may be asked, and only the one that is asked scrapes: replicas do not multiply the load, and
    one that takes over answers its first caller with samples taken for that caller.
    """

    def __init__(
        self, pods: Callable[[], Iterable[Pod]], samples: Samples, telemetry: Telemetry, port: int = PORT
    ) -> None:
        self._pods = pods
        self.samples = samples
        self._telemetry = telemetry
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self.started = asyncio.Event()
        self._interest: dict[Key, float] = {}  # when a resource's pods were last asked for, monotonic
        self._tried: dict[PodName, float] = {}

    async def run(self) -> None:
        """Scrape until cancelled."""
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
            self._session = session
            self.started.set()
            while True:
                begun = time.monotonic()
                await self.round()
                await asyncio.sleep(max(0.0, INTERVAL - (time.monotonic() - begun)))

    def latest(self, pod: Pod) -> Mapping[str, float] | None:
        """What a pod told last; None when it has not lately."""
        sample = self.samples.latest((pod.namespace, pod.name), time.time())
        return sample.values if sample else None

    async def freshen(self, pods: Iterable[Pod]) -> None:
        """Scrape those that nobody has scraped lately, and all of them regularly from now on."""
        now, found = time.monotonic(), list(pods)
        self._interest.update((pod.key, now) for pod in found)
        due = [p for p in found if now - self._tried.get((p.namespace, p.name), -INTEREST) > 1.5 * INTERVAL]
        await self._scrape_all(due)

    async def round(self) -> None:
        """One scrape of all pods that somebody wants to hear of."""
        since = time.monotonic() - INTEREST
        self._interest = {key: at for key, at in self._interest.items() if at > since}
        wanted = [pod for pod in self._pods() if pod.key in self._interest]
        names = {(pod.namespace, pod.name) for pod in wanted}
        self.samples.keep(names)
        self._tried = {name: at for name, at in self._tried.items() if name in names}
        await self._scrape_all(wanted)

    async def _scrape_all(self, pods: Iterable[Pod]) -> None:
        ready = [pod for pod in pods if pod.ready and pod.leads and pod.status.pod_ip]
        if self._session is not None:
            await asyncio.gather(*(self._scrape(self._session, pod) for pod in ready))

    async def _scrape(self, session: aiohttp.ClientSession, pod: Pod) -> None:
        self._tried[pod.namespace, pod.name] = time.monotonic()
        try:
            async with session.get(url(pod, self._port, "/metrics")) as answer:
                answer.raise_for_status()
                values = parse((await read(answer, LONGEST)).decode())
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            self._telemetry.scrapes.labels("failed").inc()
            log.debug("scrape of %s/%s: %r", pod.namespace, pod.name, error)
            return
        self._telemetry.scrapes.labels("done").inc()
        self.samples.take((pod.namespace, pod.name), Sample(values, time.time()))
