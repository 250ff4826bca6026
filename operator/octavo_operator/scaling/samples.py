"""What the engine pods last said of themselves. Pure: the clock is passed in."""

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from octavo_operator.names import KV_CACHE_USAGE, PROMPT_TOKENS, REQUESTS_IN_FLIGHT, REQUESTS_WAITING

METRICS: Mapping[str, str] = {
    REQUESTS_IN_FLIGHT: "Requests that run or wait for a place in a batch.",
    REQUESTS_WAITING: "Requests that wait for a place in a batch.",
    KV_CACHE_USAGE: "Share of the KV cache in use, 0 to 1.",
}
STALE_SECONDS = 5.0
WINDOW = 3
"""Samples whose mean an HPA is told: a burst that one of them sees does not make it start pods."""
WINDOW_SECONDS = 2.0
"""Samples that are older than the last by this or more do not count: a gap ends the window."""
_READ = frozenset({*METRICS, PROMPT_TOKENS})

PodName = tuple[str, str]
"""Namespace and name."""


class Sample(msgspec.Struct, frozen=True):
    """Values of one scrape; `at` is Unix time in seconds."""

    values: Mapping[str, float]
    at: float


class Samples:
    """The latest samples of each pod."""

    def __init__(self) -> None:
        self._latest: dict[PodName, deque[Sample]] = {}

    def take(self, pod: PodName, sample: Sample) -> None:
        self._latest.setdefault(pod, deque(maxlen=WINDOW)).append(sample)

    def latest(self, pod: PodName, now: float) -> Sample | None:
        """The last sample; None when there is none or it is stale."""
        found = self._latest.get(pod)
        return found[-1] if found and now - found[-1].at <= STALE_SECONDS else None

    def keep(self, pods: Iterable[PodName]) -> None:
        """Forget all pods but these."""
        kept = set(pods)
        self._latest = {pod: sample for pod, sample in self._latest.items() if pod in kept}

    def get(self, pod: PodName, metric: str, now: float) -> tuple[float, float] | None:
        """The metric's mean and the last sample's time; None without a sample, or when it is stale."""
        sample = self.latest(pod, now)
        if sample is None or metric not in sample.values:
            return None
        since = sample.at - WINDOW_SECONDS
        values = [s.values[metric] for s in self._latest[pod] if s.at > since and metric in s.values]
        return sum(values) / len(values), sample.at


def parse(exposition: str) -> dict[str, float]:
    """The metrics of Prometheus' text format that an HPA reads, and those that tell whether a pod is at work.

    Requests and tokens add up over label sets (several API processes); of usages the largest counts.

    Raises:
        ValueError: one of them has no number.
    """
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        name, _, _ = line.partition(" ")
        name = name.partition("{")[0]
        if name in _READ:
            value = _value(line)
            found[name] = (
                max(value, found.get(name, 0.0)) if name == KV_CACHE_USAGE else found.get(name, 0.0) + value
            )
    return found


def _value(line: str) -> float:
    """The number behind the name and the labels; a timestamp may follow."""
    rest = line.rpartition("}")[2] if "}" in line else line.partition(" ")[2]
    number, *_ = rest.split() or [""]
    return float(number)
