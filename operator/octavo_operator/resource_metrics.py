"""What becomes of resources and their pods, as metrics: made from the caches when somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo_operator.api import LLMDeployment
from octavo_operator.observed.pod import Pod


class ResourceCollector(Collector):
    """The label `model` is `namespace/name`, as on the router's metrics."""

    def __init__(
        self, resources: Callable[[], Iterable[LLMDeployment]], pods: Callable[[], Iterable[Pod]]
    ) -> None:
        self._resources = resources
        self._pods = pods

    def describe(self) -> Iterator[Metric]:
        yield _conditions()
        yield _restarts()

    def collect(self) -> Iterator[Metric]:
        yield self._conditions()
        yield self._restarts()

    def _conditions(self) -> Metric:
        family = _conditions()
        for llmd in self._resources():
            for found in llmd.status.conditions:
                labels = ["/".join(llmd.key), found.type, found.reason]
                family.add_metric(labels, float(found.status == "True"))
        return family

    def _restarts(self) -> Metric:
        family = _restarts()
        for pod in self._pods():
            containers = (*pod.status.init_container_statuses, *pod.status.container_statuses)
            family.add_metric(["/".join(pod.key), pod.name], sum(c.restart_count for c in containers))
        return family


def _conditions() -> GaugeMetricFamily:
    what = "1 while a resource's condition is True, else 0."
    return GaugeMetricFamily("octavo_operator_condition", what, labels=["model", "condition", "reason"])


def _restarts() -> CounterMetricFamily:
    what = "Restarts of an engine pod's containers."
    return CounterMetricFamily("octavo_operator_engine_restarts", what, labels=["model", "engine_pod"])
