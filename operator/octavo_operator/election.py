"""Leader election: one replica works, the others keep their caches warm and wait."""

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable

from octavo_operator.api_client import MERGE, ApiClient
from octavo_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    LeadershipLostError,
    NotFoundError,
)
from octavo_operator.informer import Informer
from octavo_operator.kinds import LEASE
from octavo_operator.lease import DEADLINE, RETRY, Lease, Patience, decode_lease, document, held, released
from octavo_operator.telemetry import Telemetry

log = logging.getLogger(__name__)

ATTEMPT = 3.0  # seconds for one write: one into a dead connection leaves time for another before DEADLINE
SILENCE = 10.0  # seconds; a Lease that is held changes every 2


class Election:
    """Campaigns for one Lease, then holds it."""

    def __init__(
        self, client: ApiClient, namespace: str, name: str, identity: str, telemetry: Telemetry
    ) -> None:
        self._client = client
        self._key = (namespace, name)
        self._identity = identity
        self._patience = Patience(identity)
        self._news = asyncio.Event()
        self._until = 0.0  # monotonic; leading is certain until then
        self._holding: asyncio.Future[bool] | None = None  # the last write, which outlives a cancelled run
        self._watch = Informer(
            client,
            LEASE.path(namespace),
            decode_lease,
            self._heard,
            {"fieldSelector": f"metadata.name={name}"},
            SILENCE,
        )
        self.won = asyncio.Event()
        telemetry.leader.set_function(lambda: float(self.leads))

    @property
    def leads(self) -> bool:
        """False as soon as the Lease might be another's, even if this process has been asleep."""
        return time.monotonic() < self._until

    async def run(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Campaign and lead until cancelled; who is not `ready` for the work leaves the Lease to others.

        Raises:
            LeadershipLostError: in an ExceptionGroup; the process has to end, another may be leading.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run())
            await self._watch.synced.wait()
            await ready()
            await self._campaign()
            log.info("%s leads: it holds the Lease %s/%s", self._identity, *self._key)
            self.won.set()
            await self._lead()

    async def release(self) -> None:
        """Clear the holder, so that another replica need not wait. After this nothing may be written."""
        if self._holding is not None:
            await asyncio.wait([self._holding], timeout=ATTEMPT)
        found = self._watch.get(self._key)
        if not self.leads or found is None:
            return
        self._until = 0.0
        try:
            async with asyncio.timeout(RETRY):
                await self._patch(found, released(found))
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease %s/%s is not released, it runs out: %s", *self._key, error)

    def _heard(self, _: Lease | None, present: Lease | None) -> None:
        self._patience.heard(present, time.monotonic())
        if self._is_anothers(present):
            self._until = 0.0
        self._news.set()

    def _is_anothers(self, lease: Lease | None) -> bool:
        return lease is not None and lease.holder not in ("", self._identity)

    async def _campaign(self) -> None:
        while not self.leads:
            await self._wait_for_turn()
            if not await self._hold():
                await self._news_within(RETRY)

    async def _wait_for_turn(self) -> None:
        while (left := self._patience.seconds(time.monotonic())) > 0:
            await self._news_within(left)

    async def _news_within(self, seconds: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def _lead(self) -> None:
        while True:
            await asyncio.sleep(RETRY)
            if self.leads:  # else a renewal would take the Lease back from another
                await self._hold()
            if not self.leads:
                raise LeadershipLostError(
                    f"the Lease {self._key[0]}/{self._key[1]} was lost: it could not be renewed for "
                    f"{DEADLINE:.0f} s or another holds it; start the operator again"
                )

    async def _hold(self) -> bool:
        """Take or renew the Lease. The write is not cancelled: without its answer there is no release."""
        self._holding = asyncio.ensure_future(self._try_to_hold())
        return await asyncio.shield(self._holding)

    async def _try_to_hold(self) -> bool:
        """The answer counts from when it was asked for."""
        asked = time.monotonic()
        if self._patience.seconds(asked) > 0:  # heard just now; to write over it would be no conflict
            return False
        try:
            async with asyncio.timeout(min(ATTEMPT, max(RETRY, self._until - asked))):
                await self._write()
        except (ConflictError, AlreadyExistsError):
            log.info("the Lease %s/%s has just been changed by another", *self._key)
            return False
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease %s/%s cannot be written: %s", *self._key, error or "no answer in time")
            return False
        if self._is_anothers(self._watch.get(self._key)):  # the watch was faster than the answer
            return False
        self._until = asked + DEADLINE
        return True

    async def _write(self) -> None:
        found = self._watch.get(self._key)
        spec = held(found, self._identity, datetime.datetime.now(datetime.UTC))
        try:
            answer = await self._create(spec) if found is None else await self._patch(found, spec)
        except NotFoundError:
            if found is None or not self.leads:  # no namespace; or a Lease deleted from under its holder
                raise
            answer = await self._create(spec)
        self._watch.learn(self._key, decode_lease(answer))

    async def _create(self, spec: dict[str, object]) -> bytes:
        body = document(*self._key, spec)
        return await self._client.request("POST", LEASE.path(self._key[0]), kind=LEASE.name, body=body)

    async def _patch(self, found: Lease, spec: dict[str, object]) -> bytes:
        """Only the Lease that was seen: a later one is a conflict."""
        body = {"metadata": {"resourceVersion": str(found.version)}, "spec": spec}
        path = LEASE.path(*self._key)
        return await self._client.request("PATCH", path, kind=LEASE.name, body=body, content_type=MERGE)


class Alone:
    """Stands in for Election where there is only one replica."""

    def __init__(self) -> None:
        self.leads = True
        self.won = asyncio.Event()
        self.won.set()

    async def run(self, ready: Callable[[], Awaitable[None]]) -> None:
        await asyncio.Event().wait()

    async def release(self) -> None:
        """Nothing is held."""
