"""What API keys use elsewhere: routers tell each other, so that a limit holds for all of them together.

Each process takes from its own buckets what keys have used at the pod's other processes and at other
replicas. It asks once a second, limits or not: who was not asked before cannot be told apart from one that
has just used a new limit up. Every bucket is whole, so that a client on one connection has all of its limit;
and totals are told, so that nothing is lost with an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import aiohttp
import msgspec

from octavo_router.authority import authority
from octavo_router.background import at_work
from octavo_router.keys import Keyring
from octavo_router.settings import Settings

log = logging.getLogger("octavo.router.sharing")

_EVERY_S = 1.0
_MOST_TELLERS = 1000  # remembered; those that are gone go first
_TIMEOUT = aiohttp.ClientTimeout(total=1)


class Told(msgspec.Struct):
    """What one pod tells at `/usage`: tokens used of each limit since it started."""

    pod: str  # drawn at its start
    tokens: dict[str, int]  # by the limit's term


_decode = msgspec.json.Decoder(Told).decode


class Ledger:
    """Turns totals into what has come since they were told before. Pure."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, int]] = {}

    def grown(self, totals: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Teller -> term -> tokens. Who tells for the first time tells only where it begins."""
        former = self._known
        silent = {teller: tokens for teller, tokens in former.items() if teller not in totals}
        self._known = dict([*silent.items(), *totals.items()][-_MOST_TELLERS:])
        return {
            teller: {term: count - former[teller].get(term, 0) for term, count in tokens.items()}
            for teller, tokens in totals.items()
            if teller in former
        }


class Sharing:
    """Keeps a keyring's buckets true to what is used elsewhere."""

    def __init__(
        self, keyring: Keyring, own: str, find: Callable[[], Awaitable[Sequence[str]]], *, alone: bool
    ) -> None:
        """`own`: the URL of this pod's admin port; `find` gives those of all replicas, this pod's or not.

        `alone`: no other process of this pod serves.
        """
        self._keyring = keyring
        self._own = own
        self._find = find
        self._alone = alone
        self._ledger = Ledger()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                await self.compare(session)
                await asyncio.sleep(_EVERY_S)

    async def compare(self, session: aiohttp.ClientSession) -> None:
        """Asks all once, and debits what they have used since they were asked before."""
        own, *others = await asyncio.gather(*[_ask(session, u) for u in (self._own, *await self._find())])
        if own is None:  # which of the others is this pod?
            return
        here = self._keyring.used()
        grown = self._ledger.grown({told.pod: told.tokens for told in (own, *others) if told} | {"": here})
        elsewhere: Counter[str] = Counter()
        for teller, tokens in grown.items():
            if teller and not (teller == own.pod and self._alone):
                elsewhere.update(tokens)
        if not self._alone:
            elsewhere.subtract(grown.get("", {}))  # the pod's total has this process's in it
        self._keyring.used_elsewhere(elsewhere, time.monotonic())


async def _ask(session: aiohttp.ClientSession, url: str) -> Told | None:
    try:
        async with session.get(f"{url}/usage") as response:
            return _decode(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # what is missed now comes with its next answer


class Peers:
    """The replicas, by a name that leads to all of them (a headless Service)."""

    def __init__(self, name: str) -> None:
        self._host, _, port = name.rpartition(":")
        self._port = int(port)
        self._resolved = True

    async def urls(self) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            if self._resolved:
                log.warning(
                    "OCTAVO_PEERS names %s, which cannot be resolved (%s): limits hold for each pod",
                    self._host,
                    error,
                )
            self._resolved = False
            return []
        self._resolved = True
        return sorted({f"http://{authority(str(address[0]), self._port)}" for *_, address in found})


async def _nobody() -> Sequence[str]:
    return ()


@contextlib.asynccontextmanager
async def sharing(settings: Settings, keyring: Keyring | None) -> AsyncIterator[None]:
    """Shares usage while the block runs, where there is anybody to share it with."""
    alone = settings.workers == 1
    if keyring is None or (alone and not settings.peers):
        yield
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    find = Peers(settings.peers).urls if settings.peers else _nobody
    shared = Sharing(keyring, f"http://{authority(host, settings.admin_port)}", find, alone=alone)
    async with at_work(shared.run()):
        yield
