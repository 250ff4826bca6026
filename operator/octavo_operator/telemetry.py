"""The operator's own metrics."""

from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Telemetry:
    """One registry with what the operator counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.reconcile_seconds = Histogram(
            "octavo_operator_reconcile_seconds",
            "Time of one reconcile.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.reconciles = Counter(
            "octavo_operator_reconciles", "Reconciles by outcome.", ["outcome"], registry=self.registry
        )
        self.requests = Counter(
            "octavo_operator_api_requests",
            "Requests to the API server.",
            ["verb", "kind", "status"],
            registry=self.registry,
        )
        self.scrapes = Counter(
            "octavo_operator_scrapes",
            "Scrapes of engine pods by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.leader = Gauge("octavo_operator_leader", "1 while this replica leads.", registry=self.registry)
        self._queue_depth = Gauge(
            "octavo_operator_queue_depth", "Resources that wait for a worker.", registry=self.registry
        )
        self._resources = Gauge("octavo_operator_resources", "LLMDeployments known.", registry=self.registry)

    def watch(self, queue_depth: Callable[[], int], resources: Callable[[], int]) -> None:
        """Read these two when asked for metrics."""
        self._queue_depth.set_function(queue_depth)
        self._resources.set_function(resources)

    def exposition(self, names: Collection[str] = ()) -> bytes:
        """All metrics in Prometheus' text format, or those of `names` alone, without making the others."""
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)
