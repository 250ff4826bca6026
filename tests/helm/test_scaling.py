"""The alternatives to the operator's own scaling signal."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from octavo_operator.api import ScalingDefaults
from octavo_operator.scaling.samples import METRICS

Render = Callable[..., list[dict[str, Any]]]
MODELS = (
    'scaling.keda.models=[{"name": "llama", "namespace": "ml", "minReplicas": 2, "maxReplicas": 8,'
    ' "concurrency": 16}, {"name": "small", "maxReplicas": 2}]'
)


def scaled_objects(render: Render) -> list[dict[str, Any]]:
    return [item for item in render(MODELS) if item["kind"] == "ScaledObject"]


def test_keda_scales_the_resource_by_the_requests_in_flight(render: Render) -> None:
    first, second = scaled_objects(render)
    target = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "name": "llama"}
    assert first["spec"]["scaleTargetRef"] == target
    assert (first["spec"]["minReplicaCount"], first["spec"]["maxReplicaCount"]) == (2, 8)
    (trigger,) = first["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'sum(octavo_num_requests_in_flight{model="ml/llama"})'
    assert trigger["metadata"]["threshold"] == "16"
    (trigger,) = second["spec"]["triggers"]
    assert second["metadata"]["namespace"] == "octavo-system"
    assert trigger["metadata"]["threshold"] == str(ScalingDefaults().concurrency)


@pytest.mark.parametrize("off", ["0", "null"])
def test_keda_needs_a_target_of_its_own_where_the_default_is_off(
    off: str, render: Render, refusal: Callable[..., str]
) -> None:
    setting = f"operator.scalingDefaults.concurrency={off}"
    told = (
        "small has no concurrency, and operator.scalingDefaults.concurrency is off: set one of them above 0"
    )
    assert f"scaling.keda.models: {told}" in refusal(MODELS, setting)
    own = MODELS.replace('"maxReplicas": 2}', '"maxReplicas": 2, "concurrency": 4}')
    found = [item for item in render(own, setting) if item["kind"] == "ScaledObject"]
    assert [item["spec"]["triggers"][0]["metadata"]["threshold"] for item in found] == ["16", "4"]


def test_without_models_keda_is_not_needed(render: Render) -> None:
    assert "ScaledObject" not in {item["kind"] for item in render()}


def test_the_adapter_serves_each_metric_of_the_operator_under_its_own_name(render: Render) -> None:
    objects = render("scaling.prometheusAdapter.enabled=true")
    (found,) = [item for item in objects if item["metadata"]["name"] == "octavo-prometheus-adapter"]
    rules = yaml.safe_load(found["data"]["config.yaml"])["rules"]
    assert {rule["name"]["as"] for rule in rules} == set(METRICS)
    for rule in rules:
        assert rule["seriesQuery"].startswith(rule["name"]["matches"] + "{")
        assert rule["resources"]["overrides"] == {
            "namespace": {"resource": "namespace"},
            "pod": {"resource": "pod"},
        }
