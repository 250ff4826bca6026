"""Looks once a second which resources with minReplicas 0 are at work, and calls for those that may sleep."""

import asyncio
import time
from collections.abc import Callable, Iterable

from octavo_operator.api import LLMDeployment
from octavo_operator.names import Key
from octavo_operator.observed.pod import Pod
from octavo_operator.scaling.activity import Activity, Values
from octavo_operator.scaling.scraper import Scraper

INTERVAL = 1.0  # seconds


class Sleeper:
    """`reconcile` hears of each resource whose time has come; it asks `is_idle` then."""

    def __init__(
        self,
        resources: Callable[[], Iterable[LLMDeployment]],
        pods: Callable[[Key], Iterable[Pod]],
        scraper: Scraper,
        reconcile: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources = resources
        self._pods = pods
        self._scraper = scraper
        self._reconcile = reconcile
        self._clock = clock
        self._activity = Activity()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(INTERVAL)

    async def round(self) -> None:
        found = [llmd for llmd in self._resources() if _may_sleep(llmd)]
        self._activity.keep(llmd.key for llmd in found)
        awake = [llmd for llmd in found if any(True for _ in self._pods(llmd.key))]
        await self._scraper.freshen(pod for llmd in awake for pod in self._pods(llmd.key))
        for llmd in awake:
            told = [self._told(pod) for pod in self._pods(llmd.key) if pod.leads and not pod.leaving]
            self._activity.look(llmd.key, told, llmd.status.wake_requested, self._clock())
            if told and self.is_idle(llmd):
                self._reconcile(llmd.key)

    def is_idle(self, llmd: LLMDeployment) -> bool:
        """Whether the pods have had nothing to do for the resource's idleSeconds."""
        autoscaling = llmd.spec.autoscaling
        if autoscaling is None or not _may_sleep(llmd):
            return False
        self._activity.wake(llmd.key, llmd.status.wake_requested, self._clock())
        return self._activity.idle_seconds(llmd.key, self._clock()) >= autoscaling.idle_seconds

    def _told(self, pod: Pod) -> Values | None:
        return self._scraper.latest(pod) if pod.ready else None


def _may_sleep(llmd: LLMDeployment) -> bool:
    return llmd.spec.autoscaling is not None and llmd.spec.autoscaling.min_replicas == 0
