"""One router process put together: discovery, the data path, the admin port, and the order of its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from octavo_router.admin import administered
from octavo_router.background import at_work
from octavo_router.channel import State, answer
from octavo_router.discovery import Discovery
from octavo_router.errors import SettingsError
from octavo_router.keys import Keyring
from octavo_router.kubeconfig import load_access
from octavo_router.loads import asking_loads
from octavo_router.metrics import Figures
from octavo_router.overview import overview
from octavo_router.proxy.gateway import Gateway
from octavo_router.proxy.pool import Pool
from octavo_router.registry import Registry, make_registry
from octavo_router.settings import Settings
from octavo_router.sharing import sharing
from octavo_router.static import load_static
from octavo_router.waking import waking

log = logging.getLogger("octavo.router")


class Service:
    """Runs until SIGTERM or SIGINT, and then until what runs has ended; a second signal cuts it short."""

    def __init__(self, settings: Settings, static: Path | None, channel: socket.socket | None = None) -> None:
        """`channel`: to the supervisor, for one of several workers."""
        self._settings = settings
        self._static = static
        self._channel = channel
        self._figures = Figures()
        self._keyring = Keyring(self._figures, log.warning) if settings.api_keys else None
        self._told, self._told_again = asyncio.Event(), asyncio.Event()
        self._synced = asyncio.Event()  # the first list of models is complete
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serves, then drains; returns the exit code. Raises SettingsError; OSError when a port is taken."""
        pool = Pool(self._settings, self._figures)
        registry = make_registry(self._settings, self._figures, pool.withdraw)
        gateway = Gateway(self._settings, registry, pool, self._figures, self._keyring)
        self._listen_for_signals()
        async with (
            self._discovering(registry),
            self._administered(registry),
            asking_loads(self._settings, registry, pool),
            sharing(self._settings, self._keyring),
        ):
            if not await self._knows_models():
                await gateway.stop()
                return 0
            port = await gateway.start()
            _calm_collector()
            log.info("serving on %s:%d", self._settings.host, port)
            await self._told.wait()
            log.info("leaving: accepting %g s more, then finishing what runs", self._settings.lame_duck)
            await self._leave(gateway)
        return 0

    async def _knows_models(self) -> bool:
        """Waits for the first lists; False when told to leave before.

        Until then nothing listens: who is refused a connection tries again or elsewhere, but an answer that
        there is no such model, or no such API key, is taken for final.
        """
        synced, told = (asyncio.create_task(event.wait()) for event in (self._synced, self._told))
        await asyncio.wait((synced, told), return_when=asyncio.FIRST_COMPLETED)
        synced.cancel()
        told.cancel()
        return not self._told.is_set()

    async def _leave(self, gateway: Gateway) -> None:
        draining = asyncio.create_task(gateway.drain())
        hurried = asyncio.create_task(self._told_again.wait())
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            draining.cancel()
            await gateway.stop()
            log.warning("told twice: cut what still ran")
        elif not draining.result():
            log.warning("%g s were not enough: cut what still ran", self._settings.drain_timeout)

    @contextlib.asynccontextmanager
    async def _administered(self, registry: Registry) -> AsyncIterator[None]:
        """Serves the admin port, or answers the supervisor that does."""
        if self._channel is None:
            async with administered(
                self._settings,
                lambda: self._figures,
                lambda: overview(registry.routes()),
                self._unready,
                self._broken,
            ):
                yield
            return
        answering = asyncio.create_task(answer(self._channel, lambda: self._state(registry)))
        answering.add_done_callback(lambda _: self._told.set())
        try:
            yield
        finally:
            answering.cancel()

    def _state(self, registry: Registry) -> State:
        models = overview(registry.routes()) if self._settings.page else {}
        return State(self._unready(), self._broken(), self._figures.snapshot(), models)

    @contextlib.asynccontextmanager
    async def _discovering(self, registry: Registry) -> AsyncIterator[None]:
        """Keeps the registry filled. Raises SettingsError when it is not known from where."""
        if self._static is not None:
            if self._keyring is not None:
                raise SettingsError(
                    "OCTAVO_API_KEYS is true, but keys are Secrets in Kubernetes: unset it, or drop --static."
                )
            load_static(self._static, registry)
            self._figures.synced = True
            self._synced.set()
            yield
            return
        access = load_access(os.environ)
        discovery = Discovery(self._settings, access, registry, self._figures, self._keyring)
        self._synced = discovery.synced
        async with at_work(discovery.run()) as self._watching, waking(access, registry):
            yield

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._tell)

    def _tell(self) -> None:
        (self._told_again if self._told.is_set() else self._told).set()

    def _broken(self) -> str | None:
        watching = self._watching
        return "Discovery has ended." if watching is not None and watching.done() else None

    def _unready(self) -> str | None:
        if self._told.is_set():
            return "The router is leaving."
        return None if self._figures.synced else "The first list of models is not complete yet."


def _calm_collector() -> None:
    """Lets the garbage collector look seldom, and never at what is here to stay.

    The data path leaves no cycles behind; with thousands of streams a full look takes milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
