"""The alternatives to the operator's own scaling signal."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.go_programs import program
from tests.helm.test_values import DEFAULTS

from octavo_operator.api import ScalingDefaults
from octavo_operator.names import KV_CACHE_USAGE, REQUESTS_IN_FLIGHT
from octavo_operator.scaling.samples import METRICS

Render = Callable[..., list[dict[str, Any]]]
MODELS = (
    'scaling.keda.models=[{"name": "llama", "namespace": "ml", "minReplicas": 2, "maxReplicas": 8,'
    ' "concurrency": 16}, {"name": "small", "maxReplicas": 2}]'
)


def scaled_objects(render: Render) -> list[dict[str, Any]]:
    return [item for item in render(MODELS) if item["kind"] == "ScaledObject"]


def targets(scaled_object: dict[str, Any]) -> dict[str, str]:
    """Of each trigger the query and its threshold."""
    triggers = scaled_object["spec"]["triggers"]
    return {each["metadata"]["query"]: each["metadata"]["threshold"] for each in triggers}


def test_keda_scales_the_resource_by_its_own_targets_or_the_operators(render: Render) -> None:
    first, second = scaled_objects(render)
    target = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "name": "llama"}
    assert first["spec"]["scaleTargetRef"] == target
    assert (first["spec"]["minReplicaCount"], first["spec"]["maxReplicaCount"]) == (2, 8)
    assert targets(first) == {'sum(max by (pod) (octavo_num_requests_in_flight{model="ml/llama"}))': "16"}
    assert second["metadata"]["namespace"] == "octavo-system"
    defaults = ScalingDefaults()
    model = '{model="octavo-system/small"}'
    assert targets(second) == {
        f"sum(max by (pod) ({REQUESTS_IN_FLIGHT}{model}))": str(defaults.concurrency),
        f"sum(max by (pod) ({KV_CACHE_USAGE}{model}))": str(defaults.kv_cache_usage),
    }


def test_keda_scales_at_the_pace_of_the_operators_own_hpas(render: Render) -> None:
    for item in scaled_objects(render):
        configured = item["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert configured == DEFAULTS["operator"]["scalingDefaults"]["behavior"]


@pytest.mark.parametrize("off", ["0", "null"])
def test_keda_leaves_out_the_signals_that_are_off(off: str, render: Render) -> None:
    objects = render(MODELS, f"operator.scalingDefaults.concurrency={off}")
    _, second = [item for item in objects if item["kind"] == "ScaledObject"]
    assert [KV_CACHE_USAGE in query for query in targets(second)] == [True]


def test_without_models_keda_is_not_needed(render: Render) -> None:
    assert "ScaledObject" not in {item["kind"] for item in render()}


def adapter_rules(render: Render) -> str:
    objects = render("scaling.prometheusAdapter.enabled=true")
    (found,) = [item for item in objects if item["metadata"]["name"] == "octavo-prometheus-adapter"]
    text: str = found["data"]["config.yaml"]
    return text


@pytest.mark.apiserver
@pytest.mark.timeout(240)
def test_prometheus_adapters_own_packages_read_the_rules(render: Render, tmp_path: Path) -> None:
    """The query is for the pods that an HPA asks about, one value each."""
    (tmp_path / "config.yaml").write_text(adapter_rules(render))
    command = [str(program("adapter-rules")), str(tmp_path / "config.yaml"), *METRICS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == [
        f'{metric}\tmax({metric}{{namespace="ml",pod=~"llama-0|llama-1"}}) by (pod)' for metric in METRICS
    ]


def test_the_adapter_serves_each_metric_of_the_operator_under_its_own_name(render: Render) -> None:
    rules = yaml.safe_load(adapter_rules(render))["rules"]
    assert {rule["name"]["as"] for rule in rules} == set(METRICS)
    for rule in rules:
        assert rule["seriesQuery"].startswith(rule["name"]["matches"] + "{")
        assert rule["resources"]["overrides"] == {
            "namespace": {"resource": "namespace"},
            "pod": {"resource": "pod"},
        }
