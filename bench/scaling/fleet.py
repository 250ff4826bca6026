"""A fleet of engine pods in steps of a quarter of a second: queues, batches, KV cache, start-up, drain.

The figures of a pod are those of Llama 3.1 8B on an H100 (docs/performance.md): a step of b rows takes 5.6 ms
and 0.036 ms a row, prompts are computed at 40,000 tokens a second, and the KV cache holds 440,000 tokens.
What an HPA hears of them is the operator's own code at the operator's own interval.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octavo_operator.names import KV_CACHE_USAGE, REQUESTS_IN_FLIGHT, REQUESTS_WAITING
from octavo_operator.scaling.samples import PodName, Sample, Samples
from octavo_operator.scaling.scraper import INTERVAL

STEP = 0.25  # seconds
METRICS = {
    "queueDepth": REQUESTS_WAITING,
    "kvCacheUsage": KV_CACHE_USAGE,
    "concurrency": REQUESTS_IN_FLIGHT,
}


@dataclass(frozen=True)
class Engine:
    most_running: int = 256
    kv_tokens: int = 440_000
    step_seconds: float = 0.0056
    row_seconds: float = 0.000036
    prefill_per_second: float = 40_000.0
    start_seconds: float = 60.0


@dataclass
class Pod:
    """``running``: a heap of (``given`` at a request's last token, its prompt less ``given`` at its begin).

    ``given``: tokens that a request has got which runs since the pod began; all that run get the same.
    ``base``: the sum of the heap's second numbers. ``behind``: seconds of the next step that go to prompts.
    """

    name: PodName
    ready_at: float
    waiting: deque[int] = field(default_factory=deque)
    running: list[tuple[float, float]] = field(default_factory=list)
    given: float = 0.0
    base: float = 0.0
    behind: float = 0.0
    leaving: bool = False

    @property
    def in_flight(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def held(self) -> float:
        """Tokens in the cache."""
        return self.base + len(self.running) * self.given


class Fleet:
    """``first_tokens`` [requests] are the times of first tokens, NaN before."""

    def __init__(self, engine: Engine, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
        self._engine = engine
        self._prompts: list[int] = prompts.tolist()
        self._outputs: list[int] = outputs.tolist()
        self.first_tokens = np.full(len(prompts), np.nan)
        self.pods: list[Pod] = []
        self._unsent: deque[int] = deque()
        self._names = itertools.count()
        self._samples = Samples()
        self._due = 0.0

    @property
    def wanted(self) -> int:
        return sum(not pod.leaving for pod in self.pods)

    def scale(self, replicas: int, now: float, start: float | None = None) -> None:
        """New pods load first; of those that are too many the youngest drain."""
        staying = [pod for pod in self.pods if not pod.leaving]
        for pod in staying[replicas:]:
            pod.leaving = True
        delay = self._engine.start_seconds if start is None else start
        new = [("default", f"pod-{next(self._names)}") for _ in range(replicas - len(staying))]
        self.pods += [Pod(name, now + delay) for name in new]

    def metrics(self, now: float) -> dict[str, list[float]]:
        """What the operator tells an HPA of every ready pod that it has a sample of."""
        names = [pod.name for pod in self._ready(now)]
        return {
            signal: [found[0] for name in names if (found := self._samples.get(name, metric, now))]
            for signal, metric in METRICS.items()
        }

    def scrape(self, now: float) -> None:
        """Ready pods' metrics, when the operator's interval is over."""
        if now < self._due:
            return
        self._due += INTERVAL
        ready = self._ready(now)
        self._samples.keep(pod.name for pod in ready)
        for pod in ready:
            values = {
                REQUESTS_WAITING: len(pod.waiting),
                KV_CACHE_USAGE: min(1.0, pod.held / self._engine.kv_tokens),
                REQUESTS_IN_FLIGHT: pod.in_flight,
            }
            self._samples.take(pod.name, Sample(values, now))

    def step(self, now: float, arrived: range) -> None:
        """A quarter of a second: requests go to the pod with the least load, pods compute."""
        self._unsent.extend(arrived)
        ready = self._ready(now)
        if ready:
            loads = [(pod.in_flight, index) for index, pod in enumerate(ready)]
            heapq.heapify(loads)
            while self._unsent:
                load, least = loads[0]
                ready[least].waiting.append(self._unsent.popleft())
                heapq.heapreplace(loads, (load + 1, least))
        for pod in self.pods:
            if pod.ready_at <= now:
                self._compute(pod, now)
        self.pods = [pod for pod in self.pods if not pod.leaving or pod.in_flight]

    def _ready(self, now: float) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready_at <= now and not pod.leaving]

    def _compute(self, pod: Pod, now: float) -> None:
        engine = self._engine
        self._admit(pod, now)
        if pod.behind < STEP:
            step_seconds = engine.step_seconds + engine.row_seconds * len(pod.running)
            pod.given += (STEP - pod.behind) / step_seconds
            while pod.running and pod.running[0][0] <= pod.given:
                pod.base -= heapq.heappop(pod.running)[1]
        pod.behind = max(0.0, pod.behind - STEP)

    def _admit(self, pod: Pod, now: float) -> None:
        """Takes in what there is room and time for."""
        engine = self._engine
        while pod.waiting and pod.behind < STEP and len(pod.running) < engine.most_running:
            request = pod.waiting[0]
            prompt = self._prompts[request]
            if pod.held + prompt > engine.kv_tokens:
                break
            pod.waiting.popleft()
            pod.behind += prompt / engine.prefill_per_second
            self.first_tokens[request] = now + pod.behind
            heapq.heappush(pod.running, (pod.given + self._outputs[request], prompt - pod.given))
            pod.base += prompt - pod.given
