"""What the engine pods last said of themselves. Pure: the clock is passed in."""

from collections.abc import Iterable, Mapping

import msgspec

from octavo_operator.names import KV_CACHE_USAGE, REQUESTS_WAITING

METRICS: Mapping[str, str] = {
    REQUESTS_WAITING: "Requests that wait for a place in a batch.",
    KV_CACHE_USAGE: "Share of the KV cache in use, 0 to 1.",
}
STALE_SECONDS = 5.0

PodName = tuple[str, str]
"""Namespace and name."""


class Sample(msgspec.Struct, frozen=True):
    """Values of one scrape; `at` is Unix time in seconds."""

    values: Mapping[str, float]
    at: float


class Samples:
    """The latest sample of each pod."""

    def __init__(self) -> None:
        self._latest: dict[PodName, Sample] = {}

    def take(self, pod: PodName, sample: Sample) -> None:
        self._latest[pod] = sample

    def keep(self, pods: Iterable[PodName]) -> None:
        """Forget all pods but these."""
        kept = set(pods)
        self._latest = {pod: sample for pod, sample in self._latest.items() if pod in kept}

    def get(self, pod: PodName, metric: str, now: float) -> tuple[float, float] | None:
        """Value and time of the pod's metric; None when there is none or it is stale."""
        sample = self._latest.get(pod)
        if sample is None or metric not in sample.values or now - sample.at > STALE_SECONDS:
            return None
        return sample.values[metric], sample.at


def parse(exposition: str) -> dict[str, float]:
    """The metrics of Prometheus' text format that an HPA reads.

    Waiting requests add up over label sets (several API processes); of usages the largest counts.
    """
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        name, _, _ = line.partition(" ")
        name = name.partition("{")[0]
        if name in METRICS:
            value = _value(line)
            found[name] = (
                max(found.get(name, 0.0), value) if name == KV_CACHE_USAGE else found.get(name, 0.0) + value
            )
    return found


def _value(line: str) -> float:
    """The number behind the name and the labels; a timestamp may follow."""
    rest = line.rpartition("}")[2] if "}" in line else line.partition(" ")[2]
    return float(rest.split()[0])
