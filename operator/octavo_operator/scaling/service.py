"""The metrics API put together: certificate, server, and their upkeep."""

import asyncio
import datetime
import logging
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from octavo_operator.api_client import ApiClient
from octavo_operator.errors import ApiError
from octavo_operator.listening import serve
from octavo_operator.observed.pod import Pod
from octavo_operator.scaling.access import Delegation
from octavo_operator.scaling.certificates import Bundle
from octavo_operator.scaling.registration import FrontProxy, Registration
from octavo_operator.scaling.scraper import Scraper
from octavo_operator.scaling.server import MetricsApi
from octavo_operator.settings import Settings
from octavo_operator.work_queue import delay_after

log = logging.getLogger(__name__)

UPKEEP_SECONDS = 60.0
MOST_WAIT = 2.0  # seconds between looks for the first certificate


class PodSource(Protocol):
    def all_pods(self) -> Iterable[Pod]: ...


class Leadership(Protocol):
    won: asyncio.Event

    @property
    def leads(self) -> bool: ...


class MetricsService:
    """Serves the custom metrics API until cancelled; its troubles never stop the operator's other work.

    Every replica serves, with the certificate that the leader has made and registered.
    """

    def __init__(
        self,
        client: ApiClient,
        pods: PodSource,
        settings: Settings,
        scraper: Scraper,
        leadership: Leadership,
    ) -> None:
        self._leadership = leadership
        self._settings = settings
        self._registration = Registration(client, settings.namespace, settings.service_name)
        self._proxy = FrontProxy()
        self._bundle: Bundle | None = None
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.verify_mode = ssl.CERT_OPTIONAL  # callers with a bearer token have no certificate
        self._api = MetricsApi(
            lambda namespace: (pod for pod in pods.all_pods() if pod.namespace == namespace),
            scraper.freshen,
            scraper.samples,
            Delegation(client),
            lambda: self._proxy,
        )

    async def run(self) -> None:
        """Serve as soon as there is a certificate, and keep all that right."""
        async with asyncio.TaskGroup() as group:
            await self._first_upkeep()
            group.create_task(self._upkeep_when_won())
            group.create_task(self._upkeep_for_ever())
            port = self._settings.metrics_port
            await serve(self._api.application(), self._settings.bind_address, port, self._tls)

    async def upkeep(self) -> None:
        """Renew the certificate when it is time, and keep the APIServices right. May raise ApiError."""
        leads = self._leadership.leads
        bundle = await self._registration.bundle(datetime.datetime.now(datetime.UTC), may_issue=leads)
        if bundle is None:
            return
        if bundle != self._bundle:
            load(self._tls, bundle)
            self._bundle = bundle
        proxy = await self._registration.front_proxy()
        if proxy.authority and proxy.authority != self._proxy.authority:
            self._tls.load_verify_locations(cadata=proxy.authority)
        self._proxy = proxy
        if leads:
            await self._registration.register(bundle.authority)

    async def _first_upkeep(self) -> None:
        failures = 0
        while self._bundle is None:
            try:
                await self.upkeep()
            except ApiError as error:
                log.warning("the metrics API is not served yet: %s", error)
            if self._bundle is None:
                await asyncio.sleep(min(delay_after(failures), MOST_WAIT))
                failures += 1

    async def _upkeep_when_won(self) -> None:
        await self._leadership.won.wait()
        await self._try_upkeep()

    async def _upkeep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            await self._try_upkeep()

    async def _try_upkeep(self) -> None:
        try:
            await self.upkeep()
        except ApiError as error:
            log.warning("upkeep of the metrics API: %s", error)


def load(tls: ssl.SSLContext, bundle: Bundle) -> None:
    """Show this certificate from now on; the ssl module reads it only from files."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_bytes(bundle.certificate)
        key.write_bytes(bundle.key)
        tls.load_cert_chain(certificate, key)
