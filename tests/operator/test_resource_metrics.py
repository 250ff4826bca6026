"""What the operator tells Prometheus of resources and pods."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

from octavo_operator.api import LLMDeployment
from octavo_operator.observed.pod import ContainerStatus, Pod, PodStatus
from octavo_operator.resource_metrics import ResourceCollector


def exposition(llmds: list[LLMDeployment], pods: list[Pod]) -> str:
    registry = CollectorRegistry()
    registry.register(ResourceCollector(lambda: llmds, lambda: pods))
    return generate_latest(registry).decode()


def condition(kind: str, status: str, reason: str) -> dict[str, object]:
    told = {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": ""}
    return {**told, "observedGeneration": 1}


def test_every_condition_is_a_gauge_with_its_reason(make: Callable[..., LLMDeployment]) -> None:
    refused = "EngineRefused"
    found = [condition("Ready", "False", refused), condition("Stalled", "True", refused)]
    text = exposition([make(status={"conditions": found})], [])
    labels = f'model="default/smollm2",reason="{refused}"'
    assert f'octavo_operator_condition{{condition="Ready",{labels}}} 0.0' in text
    assert f'octavo_operator_condition{{condition="Stalled",{labels}}} 1.0' in text


def test_a_resource_without_status_has_no_conditions_yet(make: Callable[..., LLMDeployment]) -> None:
    assert "octavo_operator_condition{" not in exposition([make()], [])


def test_restarts_of_all_containers_of_a_pod_are_added_up() -> None:
    status = PodStatus(
        init_container_statuses=[ContainerStatus(name="fetch", restart_count=1)],
        container_statuses=[ContainerStatus(name="engine", restart_count=3)],
    )
    pod = Pod(name="smollm2-x", namespace="default", deployment="smollm2", status=status)
    told = 'octavo_operator_engine_restarts_total{engine_pod="smollm2-x",model="default/smollm2"} 4.0'
    assert told in exposition([], [pod])
