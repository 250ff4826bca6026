"""Prometheus metrics. The core's gauges and counters are read from its latest report when someone scrapes.

Several API processes keep theirs in files of one folder (``PROMETHEUS_MULTIPROC_DIR``), and each of them
answers with the sum over all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from octavo_engine.messages import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name, help, field of EngineStats
_GAUGES = (
    ("octavo_num_requests_running", "Sequences being computed.", "num_running"),
    ("octavo_num_requests_waiting", "Sequences waiting for their first or next step.", "num_waiting"),
    ("octavo_num_requests_in_flight", "Sequences that run, wait or are swapped out.", "num_in_flight"),
    ("octavo_num_requests_swapped", "Sequences whose KV blocks are in host memory.", "num_swapped"),
    ("octavo_kv_cache_usage_ratio", "KV cache blocks in use, 0 to 1.", "kv_cache_usage"),
    ("octavo_host_kv_cache_usage_ratio", "Host KV cache blocks in use, 0 to 1.", "host_kv_cache_usage"),
)
_COUNTERS = (
    ("octavo_prompt_tokens", "Prompt tokens computed or found in the prefix cache.", "prompt_tokens"),
    ("octavo_generation_tokens", "Tokens generated.", "generation_tokens"),
    ("octavo_prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_cache_queries"),
    ("octavo_prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_cache_hits"),
    ("octavo_preemptions", "Sequences taken off the running batch for want of KV blocks.", "preemptions"),
    ("octavo_engine_steps", "Steps of the engine's loop.", "steps"),
)
_TTFT = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TPOT = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.4, 1, 2.5)
_E2E = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480, 960)


class Metrics:
    """One server's metrics, labelled with the model's first name."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats], *, shared: bool = False) -> None:
        """``stats``: the core's latest report; ``shared``: tell what all API processes have counted."""
        self._told = CollectorRegistry()
        self._told.register(_EngineCollector(model_name, stats))
        self._counted: CollectorRegistry = CollectorRegistry() if shared else self._told
        if shared:
            MultiProcessCollector(self._told)  # type: ignore[no-untyped-call]
        gauge = Gauge(
            "octavo_http_requests_active",
            "Requests being answered.",
            ["model_name"],
            registry=self._counted,
            multiprocess_mode="livesum",
        )
        self.active = gauge.labels(model_name)
        self._ttft = self._histogram(
            "octavo_time_to_first_token_seconds", "Request to first token.", _TTFT, model_name
        )
        self._tpot = self._histogram(
            "octavo_time_per_output_token_seconds",
            "Mean time between a request's tokens after the first.",
            _TPOT,
            model_name,
        )
        self._e2e = self._histogram(
            "octavo_e2e_request_latency_seconds", "Request to last token.", _E2E, model_name
        )

    def render(self) -> bytes:
        return generate_latest(self._told)

    def request(self, arrived: float) -> RequestTiming:
        """The stop-watch of one request that came at ``arrived`` (time.perf_counter())."""
        return RequestTiming(arrived, self._ttft, self._tpot, self._e2e)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], model_name: str) -> Histogram:
        family = Histogram(name, text, ["model_name"], buckets=buckets, registry=self._counted)
        return family.labels(model_name)


class RequestTiming:
    """Times of one request; all in seconds of time.perf_counter()."""

    __slots__ = ("_arrived", "_e2e", "_first", "_last", "_tpot", "_ttft")

    def __init__(self, arrived: float, ttft: Histogram, tpot: Histogram, e2e: Histogram) -> None:
        self._arrived = arrived
        self._first = self._last = 0.0
        self._ttft, self._tpot, self._e2e = ttft, tpot, e2e

    def progress(self, now: float) -> None:
        """Tokens came."""
        if not self._first:
            self._first = now
            self._ttft.observe(now - self._arrived)
        self._last = now

    def complete(self, now: float, tokens: int, choices: int) -> None:
        """All tokens came: ``tokens`` over ``choices`` sequences that ran side by side."""
        self._e2e.observe(now - self._arrived)
        intervals = tokens / choices - 1
        if intervals > 0:
            self._tpot.observe((self._last - self._first) / intervals)


class _EngineCollector:
    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._labels = [model_name]
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        for name, text, field in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric(self._labels, getattr(stats, field))
            yield gauge
        for name, text, field in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric(self._labels, getattr(stats, field))
            yield counter
