"""A fleet of engine pods in steps of half a second: queues, batches, KV cache, start-up, drain.

The figures of a pod are those of Llama 3.1 8B on an H100 (docs/performance.md): a step of b rows takes 5.6 ms
and 0.036 ms a row, prompts are computed at 40,000 tokens a second, and the KV cache holds 440,000 tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

STEP = 0.5  # seconds
WINDOW = 10  # steps of which a metric is the mean: the operator's five seconds


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
    """``left`` and ``held``: tokens to come and tokens in the cache of each running request."""

    ready_at: float
    waiting: deque[int] = field(default_factory=deque)
    left: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    held: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    seen: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    leaving: bool = False

    @property
    def in_flight(self) -> int:
        return len(self.left) + len(self.waiting)


class Fleet:
    """``first_tokens`` [requests] are the times of first tokens, NaN before."""

    def __init__(self, engine: Engine, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
        self._engine, self._prompts, self._outputs = engine, prompts, outputs
        self.first_tokens = np.full(len(prompts), np.nan)
        self.pods: list[Pod] = []
        self._unsent: deque[int] = deque()

    @property
    def wanted(self) -> int:
        return sum(not pod.leaving for pod in self.pods)

    def scale(self, replicas: int, now: float, start: float | None = None) -> None:
        """New pods load first; of those that are too many the youngest drain."""
        staying = [pod for pod in self.pods if not pod.leaving]
        for pod in staying[replicas:]:
            pod.leaving = True
        delay = self._engine.start_seconds if start is None else start
        self.pods += [Pod(now + delay) for _ in range(replicas - len(staying))]

    def metrics(self, now: float) -> dict[str, list[float]]:
        """The mean of the last seconds of every ready pod, as the operator tells them."""
        told = [np.mean(pod.seen, axis=0) for pod in self._ready(now) if pod.seen]
        names = ("queueDepth", "kvCacheUsage", "concurrency")
        return {name: [float(values[i]) for values in told] for i, name in enumerate(names)}

    def step(self, now: float, arrived: range) -> None:
        """Half a second: requests go to the pod with the least load, pods compute."""
        self._unsent.extend(arrived)
        ready = self._ready(now)
        if ready:
            loads = np.array([pod.in_flight for pod in ready])
            while self._unsent:
                least = int(loads.argmin())
                ready[least].waiting.append(self._unsent.popleft())
                loads[least] += 1
        for pod in self.pods:
            if pod.ready_at <= now:
                self._compute(pod, now)
        self.pods = [pod for pod in self.pods if not pod.leaving or pod.in_flight]

    def _ready(self, now: float) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready_at <= now and not pod.leaving]

    def _compute(self, pod: Pod, now: float) -> None:
        engine = self._engine
        seconds = STEP - self._admit(pod, now) / engine.prefill_per_second
        if len(pod.left):
            tokens = max(0.0, seconds) / (engine.step_seconds + engine.row_seconds * len(pod.left))
            pod.left -= tokens
            pod.held += tokens
            going = pod.left > 0
            pod.left, pod.held = pod.left[going], pod.held[going]
        pod.seen.append((len(pod.waiting), pod.held.sum() / engine.kv_tokens, pod.in_flight))

    def _admit(self, pod: Pod, now: float) -> float:
        """Takes in what there is room and time for; returns the tokens of its prompts."""
        engine, tokens, admitted = self._engine, 0.0, []
        used = pod.held.sum()
        while pod.waiting and len(pod.left) + len(admitted) < engine.most_running:
            prompt = int(self._prompts[pod.waiting[0]])
            if used + tokens + prompt > engine.kv_tokens or tokens > STEP * engine.prefill_per_second:
                break
            tokens += prompt
            admitted.append(pod.waiting.popleft())
            self.first_tokens[admitted[-1]] = now + tokens / engine.prefill_per_second
        pod.left = np.append(pod.left, self._outputs[admitted])
        pod.held = np.append(pod.held, self._prompts[admitted])
        return tokens
