"""The router's figures: plain integers on the data path, Prometheus families only when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

TTFT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_KEY_COUNTERS = (
    ("requests", "Requests with an API key.", "requests"),
    ("rate_limited", "Requests refused because the key had used its tokens.", "refused"),
    ("guessed_usage", "Responses whose tokens were guessed, because they told no usage.", "guessed"),
)


Snapshot = dict[str, Any]
_GAUGES = frozenset(
    (
        "held",
        "in_flight",
        "client_connections",
        "upstream_connections",
        "buffered_bytes",
        "table_blocks",
        "synced",
        "workers",
    )
)


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """What is left to be counted of a process that is gone."""
    kept = {name: value for name, value in snapshot.items() if name not in _GAUGES}
    return kept | {"table_blocks": 0, "models": {k: _counters(m) for k, m in snapshot["models"].items()}}


def _counters(model: Snapshot) -> Snapshot:
    return {name: value for name, value in model.items() if name not in _GAUGES}


def _sum(one: Any, other: Any) -> Any:
    """The sum of two figures of the same shape: numbers, numbers by label, numbers by bucket."""
    if isinstance(one, dict):
        return one | {key: one.get(key, 0) + value for key, value in other.items()}
    if isinstance(one, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other


class ModelFigures:
    """Figures of one model. The label is `namespace/name`, or the model's name in static mode."""

    __slots__ = ("held", "in_flight", "label", "requests", "ttft_counts", "ttft_sum_s")

    def __init__(self, label: str) -> None:
        self.label = label
        self.requests: dict[int, int] = {}
        self.in_flight = 0
        self.held = 0  # of those, the ones that wait for a model that sleeps
        self.ttft_counts = [0] * (len(TTFT_BUCKETS_S) + 1)
        self.ttft_sum_s = 0.0

    def snapshot(self) -> Snapshot:
        return {name: getattr(self, name) for name in self.__slots__ if name != "label"}

    def add(self, snapshot: Snapshot) -> None:
        for name, value in snapshot.items():
            setattr(self, name, _sum(getattr(self, name), value))

    def answered(self, status: int) -> None:
        self.requests[status] = self.requests.get(status, 0) + 1

    def first_byte(self, seconds: float) -> None:
        """Counts one time from the request's last byte to the response's first."""
        self.ttft_counts[bisect_left(TTFT_BUCKETS_S, seconds)] += 1
        self.ttft_sum_s += seconds


class KeyFigures:
    """Figures of one API key. The label is `namespace/secret/entry`, never the key."""

    __slots__ = ("completion_tokens", "guessed", "label", "limited", "prompt_tokens", "refused", "requests")

    def __init__(self, label: str) -> None:
        self.label = label
        self.requests = self.refused = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.guessed = 0  # responses that told no usage
        self.limited: dict[str, int] = {}  # tokens by the term of the limit that they were used of

    def snapshot(self) -> Snapshot:
        return {name: getattr(self, name) for name in self.__slots__ if name != "label"}

    def add(self, snapshot: Snapshot) -> None:
        for name, value in snapshot.items():
            setattr(self, name, _sum(getattr(self, name), value))


class Figures:
    """All figures of one router process."""

    def __init__(self) -> None:
        self._models: dict[str, ModelFigures] = {}
        self._keys: dict[str, KeyFigures] = {}
        self.retries = 0
        self.ejections = 0
        self.cancelled = 0
        self.cut_streams = 0
        self.client_connections = 0
        self.upstream_connections = 0
        self.upstream_opened = 0
        self.buffered_bytes = 0
        self.synced = False
        self.workers = 1
        self.watch_restarts = 0
        self.table_blocks: Callable[[], int] = lambda: 0
        self.unrouted = self.of(
            ""
        )  # requests that name no known model: one label, however many names are tried

    def of(self, label: str) -> ModelFigures:
        """The figures of one model; the same object for the same label."""
        return self._models.setdefault(label, ModelFigures(label))

    def of_key(self, label: str) -> KeyFigures:
        """The figures of one API key; the same object for the same label."""
        return self._keys.setdefault(label, KeyFigures(label))

    def api_keys(self) -> list[KeyFigures]:
        return list(self._keys.values())

    def limited_tokens(self) -> dict[str, int]:
        """Tokens used of each limit of an API key, by its term."""
        return {term: count for key in self._keys.values() for term, count in key.limited.items()}

    def models(self) -> list[ModelFigures]:
        return list(self._models.values())

    def snapshot(self) -> Snapshot:
        """All figures as plain values, for `add` in another process."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        models = {label: model.snapshot() for label, model in self._models.items()}
        keys = {label: key.snapshot() for label, key in self._keys.items()}
        return plain | {"table_blocks": self.table_blocks(), "models": models, "keys": keys}

    def add(self, snapshot: Snapshot) -> None:
        """Adds another process's figures to these."""
        blocks = self.table_blocks() + snapshot["table_blocks"]
        self.table_blocks = lambda: blocks
        for label, model in snapshot["models"].items():
            self.of(label).add(model)
        for label, key in snapshot["keys"].items():
            self.of_key(label).add(key)
        for name in snapshot.keys() - {"table_blocks", "models", "keys"}:
            setattr(self, name, getattr(self, name) + snapshot[name])


class RouterCollector(Collector):
    """Exports `Figures` at scrape time, so that a request costs no Prometheus object."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        models = figures.models()
        yield self._requests(models)
        yield self._ttft(models)
        yield self._in_flight(models)
        yield self._held(models)
        yield from self._keys(figures.api_keys())
        yield from self._counters(figures)
        yield from self._gauges(figures)

    def _requests(self, models: list[ModelFigures]) -> Metric:
        family = CounterMetricFamily("octavo_router_requests", "Requests answered.", labels=["model", "code"])
        for model in models:
            for code, count in model.requests.items():
                family.add_metric([model.label, str(code)], count)
        return family

    def _ttft(self, models: list[ModelFigures]) -> Metric:
        family = HistogramMetricFamily(
            "octavo_router_time_to_first_byte_seconds",
            "From a request's last byte to its response's first.",
            labels=["model"],
        )
        for model in models:
            if model.label:
                family.add_metric([model.label], _cumulative(model.ttft_counts), model.ttft_sum_s)
        return family

    def _in_flight(self, models: list[ModelFigures]) -> Metric:
        family = GaugeMetricFamily("octavo_router_requests_in_flight", "Requests running.", labels=["model"])
        for model in models:
            if model.label:
                family.add_metric([model.label], model.in_flight)
        return family

    def _held(self, models: list[ModelFigures]) -> Metric:
        text = "Requests that wait for a model that was scaled to zero."
        family = GaugeMetricFamily("octavo_router_requests_held", text, labels=["model"])
        for model in models:
            if model.label:
                family.add_metric([model.label], model.held)
        return family

    def _keys(self, keys: list[KeyFigures]) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "octavo_router_key_tokens", "Tokens used with an API key.", labels=["key", "kind"]
        )
        for key in keys:
            tokens.add_metric([key.label, "prompt"], key.prompt_tokens)
            tokens.add_metric([key.label, "completion"], key.completion_tokens)
        yield tokens
        for name, text, field in _KEY_COUNTERS:
            family = CounterMetricFamily(f"octavo_router_key_{name}", text, labels=["key"])
            for key in keys:
                family.add_metric([key.label], getattr(key, field))
            yield family

    def _counters(self, f: Figures) -> Iterator[Metric]:
        for name, text, value in (
            ("retries", "Tries after the first, on another pod.", f.retries),
            ("ejections", "Pods set aside after a failure.", f.ejections),
            ("cancelled", "Requests whose client left before the end.", f.cancelled),
            ("cut_streams", "Responses that a pod cut in their midst.", f.cut_streams),
            ("upstream_connections_opened", "Connections opened to pods.", f.upstream_opened),
            ("watch_restarts", "Watches of the API server that failed or expired.", f.watch_restarts),
        ):
            yield CounterMetricFamily(f"octavo_router_{name}", text, value=value)

    def _gauges(self, f: Figures) -> Iterator[Metric]:
        for name, text, value in (
            ("client_connections", "Open connections of clients.", f.client_connections),
            ("upstream_connections", "Open connections to pods, idle ones included.", f.upstream_connections),
            ("buffered_bytes", "Request bodies held.", f.buffered_bytes),
            ("prefix_table_blocks", "Blocks of prompts remembered.", f.table_blocks()),
            ("workers", "Processes that serve the port.", f.workers),
            ("synced", "1 once the first list of models is complete.", int(f.synced)),
        ):
            yield GaugeMetricFamily(f"octavo_router_{name}", text, value=value)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, TTFT_BUCKETS_S), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
