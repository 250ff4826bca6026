"""The plain install and the samples beside it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.go_programs import program
from manifests.render import CHART, ROOT, main

MANIFESTS = ROOT / "manifests"


def kustomized(folder: str) -> str:
    command: list[str | Path] = [program("kubectl"), "kustomize", MANIFESTS / folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def load_all(text: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(text) if item]


def test_nothing_generated_has_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--check"])
    assert capsys.readouterr().out == "", "run `make manifests` and commit what it writes"


def test_the_charts_custom_resources_are_those_of_crds() -> None:
    ours = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    charts = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert ours == charts
    assert ours


def test_the_plain_install_is_whole() -> None:
    kinds = {item["kind"] for item in load_all(kustomized("install"))}
    assert {
        "Namespace",
        "CustomResourceDefinition",
        "Deployment",
        "Service",
        "APIService",
        "ClusterRole",
    } <= kinds


def test_the_registry_overlay_leaves_no_image_without_the_registry() -> None:
    text = kustomized("overlays/registry")
    specs = [item["spec"]["template"]["spec"] for item in load_all(text) if item["kind"] == "Deployment"]
    containers = [container for spec in specs for container in spec["containers"]]
    images = [container["image"] for container in containers]
    images += [
        e["value"] for container in containers for e in container["env"] if e["name"].endswith("_IMAGE")
    ]
    assert len(images) == 4
    assert all(image.startswith("registry.example.com/octavo/") for image in images)


def test_the_argo_cd_sample_installs_this_chart() -> None:
    (application,) = load_all((MANIFESTS / "gitops" / "argocd" / "application.yaml").read_text())
    assert (application["apiVersion"], application["kind"]) == ("argoproj.io/v1alpha1", "Application")
    source = application["spec"]["source"]
    assert (ROOT / source["path"] / "Chart.yaml").is_file()
    helm_takes(source["helm"]["valuesObject"])


def test_the_flux_sample_installs_this_chart() -> None:
    repository, release = load_all((MANIFESTS / "gitops" / "flux" / "helmrelease.yaml").read_text())
    assert (release["apiVersion"], release["kind"]) == ("helm.toolkit.fluxcd.io/v2", "HelmRelease")
    chart = release["spec"]["chart"]["spec"]
    assert chart["sourceRef"] == {"kind": repository["kind"], "name": repository["metadata"]["name"]}
    assert (ROOT / chart["chart"] / "Chart.yaml").is_file()
    helm_takes(release["spec"]["values"])


def helm_takes(values: dict[str, Any]) -> None:
    command: list[str | Path] = [
        program("helm"),
        "template",
        CHART,
        "--kube-version",
        "1.34.0",
        "--values",
        "-",
    ]
    done = subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def kubeconfig() -> Iterator[Path]:
    """A real kube-apiserver that knows the namespace and the custom resource."""
    with ControlPlane() as plane:
        for name in ("namespace.yaml", "crds.yaml"):
            kubectl(plane.kubeconfig, "apply", "--server-side", "-f", str(MANIFESTS / "install" / name))
        yield plane.kubeconfig


def kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    command: list[str | Path] = [program("kubectl"), "--kubeconfig", kubeconfig, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SETTINGS = {
    "by default": "{}",
    "with everything set": """
        {router: {service: {type: LoadBalancer, annotations: {a: b}}, tolerations: [{operator: Exists}],
        podDisruptionBudget: {maxUnavailable: 25%}, priorityClassName: system-cluster-critical,
        topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}],
        extraEnv: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}], podLabels: {team: ml}},
        operator: {podDefaults: {env: [{name: A, value: b}]}, affinity: {nodeAffinity: {}},
        podAnnotations: {a: b}},
        image: {registry: "r.example/o", pullSecrets: [{name: pull}]}, commonLabels: {owner: ml}}
        """,
    "open to the outside": """
        {router: {service: {type: LoadBalancer, nodePort: 30080, loadBalancerClass: example.com/internal,
        loadBalancerSourceRanges: [10.0.0.0/8], externalTrafficPolicy: Local},
        ingress: {enabled: true, className: nginx, hosts: [llm.example.com], annotations: {a: b},
        tls: [{hosts: [llm.example.com], secretName: cert}]},
        autoscaling: {enabled: true}, extraVolumes: [{name: ca, configMap: {name: ca}}],
        extraVolumeMounts: [{name: ca, mountPath: /ca}]},
        operator: {extraVolumes: [{name: ca, configMap: {name: ca}}],
        extraVolumeMounts: [{name: ca, mountPath: /ca}]}}
        """,
    "in one namespace": "{watchNamespaces: [octavo-system]}",
}


@pytest.mark.apiserver
@pytest.mark.parametrize("values", SETTINGS.values(), ids=list(SETTINGS))
def test_a_real_apiserver_takes_what_the_chart_renders(values: str, kubeconfig: Path) -> None:
    flags = ["--namespace", "octavo-system", "--kube-version", "1.34.0", "--values", "-"]
    command: list[str | Path] = [program("helm"), "template", "octavo", CHART, *flags]
    rendered = subprocess.run(command, input=values, capture_output=True, text=True, check=True).stdout
    dry_run = (
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    )
    answers = kubectl(kubeconfig, *dry_run, given=rendered).splitlines()
    assert len(answers) == len(load_all(rendered))
    assert all("serverside-applied (server dry run)" in answer for answer in answers), answers


@pytest.mark.apiserver
def test_a_real_apiserver_takes_the_plain_install_and_its_restricted_pods(kubeconfig: Path) -> None:
    install = load_all(kustomized("install"))
    answers = kubectl(kubeconfig, "apply", "--server-side", "-k", str(MANIFESTS / "install"))
    assert len(answers.splitlines()) == len(install)
    pods = [as_pod(item) for item in install if item["kind"] == "Deployment"]
    text = yaml.safe_dump_all(pods)  # the namespace lets in no pod that breaks the restricted standard
    assert kubectl(kubeconfig, "create", "--dry-run=server", "-f", "-", given=text).count("created") == len(
        pods
    )


def as_pod(deployment: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: deployment["metadata"][key] for key in ("name", "namespace")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": deployment["spec"]["template"]["spec"],
    }
