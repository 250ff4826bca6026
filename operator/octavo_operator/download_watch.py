"""Asks every pod that downloads its model how far it is."""

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp
import msgspec

from octavo_operator.downloads import Downloads, is_fetching, parse
from octavo_operator.names import PORT, Key
from octavo_operator.observed.pod import Pod
from octavo_operator.pod_answer import read, url

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds; the status changes no more often for a download
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
AT_ONCE = 32
LONGEST = 1 << 16  # bytes of an answer


class DownloadWatch:
    """Fills `downloads`, and calls `changed` for a resource of which a person would see something new."""

    def __init__(
        self,
        pods: Callable[[], Iterable[Pod]],
        downloads: Downloads,
        changed: Callable[[Key], None],
        port: int = PORT,
    ) -> None:
        self._pods = pods
        self._downloads = downloads
        self._changed = changed
        self._port = port

    async def run(self) -> None:
        """Ask until cancelled."""
        connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
            while True:
                await self.round(session)
                await asyncio.sleep(INTERVAL)

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask all of them once."""
        fetching = [pod for pod in self._pods() if is_fetching(pod) and pod.status.pod_ip]
        self._downloads.keep(fetching)
        await asyncio.gather(*(self._ask(session, pod) for pod in fetching))

    async def _ask(self, session: aiohttp.ClientSession, pod: Pod) -> None:
        try:
            async with session.get(url(pod, self._port, "/health")) as answer:
                said = parse(await read(answer, LONGEST))
        except (TimeoutError, aiohttp.ClientError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.debug("download of %s/%s: %r", pod.namespace, pod.name, error)
            return
        if said and self._downloads.take(pod, said):
            self._changed(pod.key)
