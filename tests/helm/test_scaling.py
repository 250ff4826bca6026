"""The alternatives to the operator's own scaling signal."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.go_programs import program

from octavo_operator.api import ScalingDefaults
from octavo_operator.scaling.samples import METRICS

Render = Callable[..., list[dict[str, Any]]]
KEDA = "github.com/kedacore/keda/v2@v2.17.2"
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


def keda_crd(folder: Path) -> Path:
    """KEDA's own definition of a ScaledObject, from its Go module."""
    (folder / "go.mod").write_text("module keda-crds\n")
    command = ["go", "mod", "download", "-json", KEDA]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return Path(json.loads(told)["Dir"]) / "config" / "crd" / "bases" / "keda.sh_scaledobjects.yaml"


@pytest.mark.apiserver
@pytest.mark.timeout(180)
def test_a_real_apiserver_with_kedas_crd_takes_the_scaled_objects(render: Render, tmp_path: Path) -> None:
    with ControlPlane() as plane:

        def kubectl(*words: str, given: str | None = None) -> str:
            command: list[str | Path] = [program("kubectl"), "--kubeconfig", plane.kubeconfig, *words]
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        kubectl("apply", "--server-side", "-f", str(keda_crd(tmp_path)))
        kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=30s")
        for name in ("ml", "octavo-system"):
            kubectl("create", "namespace", name)
        text = yaml.safe_dump_all(scaled_objects(render))
        taken = kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=text)
        assert taken.count("serverside-applied") == 2
