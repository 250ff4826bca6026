"""Operator and router run under the chart's rules, and an API server tells which of them are asked for."""

import contextlib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane, free_ports
from e2e.waiting import wait_for
from manifests.render import plain_objects
from tests.contract.permissions.authorizer import NAMESPACE, Authorizer, granted
from tests.contract.permissions.running import RBAC, furnished, program
from tests.contract.permissions.story import AUTOSCALING, CHILDREN, LLMDS, MERGE, Story, model

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(240)]

ROUTER = "octavo-router"
KEY = "sk-0123456789abcdef"
APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
CERTIFICATE = f"/api/v1/namespaces/{NAMESPACE}/secrets/octavo-metrics-tls"
BY_THE_CLUSTER = {  # its own roles, to which the chart binds
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("", "configmaps", "get"),
}


@pytest.fixture(scope="module")
def authorizer() -> Iterator[Authorizer]:
    found = Authorizer()
    yield found
    found.server.shutdown()


@pytest.fixture(scope="module")
def flags(authorizer: Authorizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What makes an API server ask the authorizer."""
    config = tmp_path_factory.mktemp("authorizer") / "kubeconfig"
    cluster = {"server": f"http://127.0.0.1:{authorizer.server.server_address[1]}"}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    parts = {"clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x"}], "contexts": [context]}
    head = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    config.write_text(yaml.safe_dump({**head, **parts}))
    return {
        "authorization-mode": "Node,Webhook,RBAC",
        "authorization-webhook-config-file": str(config),
        "authorization-webhook-version": "v1",
        # With it the API server asks for llmdeployments/finalizers.
        "enable-admission-plugins": "NodeRestriction,OwnerReferencesPermissionEnforcement",
    }


@pytest.fixture(scope="module")
def control_plane(flags: dict[str, str]) -> Iterator[ControlPlane]:
    with ControlPlane(apiserver_flags=flags) as found:
        yield found


@pytest.fixture(scope="module")
def kube(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> Iterator[httpx.Client]:
    with furnished(control_plane, objects) as http:
        yield http


def register(kube: httpx.Client, port: int) -> None:
    """Service and APIService, as far as the chart's can be had without nodes."""
    service = {"namespace": NAMESPACE, "name": "octavo-operator"}
    spec: dict[str, Any] = {"type": "ExternalName", "externalName": "localhost"}
    path = f"/api/v1/namespaces/{NAMESPACE}/services"
    kube.post(path, json={"metadata": service, "spec": spec}).raise_for_status()
    for version in ("v1beta1", "v1beta2"):
        spec = {
            "group": "custom.metrics.k8s.io",
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {**service, "port": port},
        }
        body = {"metadata": {"name": f"{version}.custom.metrics.k8s.io"}, "spec": spec}
        kube.post(APISERVICES, json=body).raise_for_status()


def ask_for_metrics(kube: httpx.Client, port: int) -> None:
    """By a bearer token, whose owner and whose rights the operator has to ask for."""
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    kube.post(accounts, json={"metadata": {"name": "hpa"}}).raise_for_status()
    token = kube.post(f"{accounts}/hpa/token", json={"spec": {}}).json()["status"]["token"]
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/octavo_num_requests_waiting"
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"https://127.0.0.1:{port}{path}", verify=tls, headers=headers).status_code == 403


def trusted(kube: httpx.Client) -> set[str]:
    items = kube.get(APISERVICES).json()["items"]
    return {item["spec"]["caBundle"] for item in items if item["spec"].get("caBundle")}


def lists_where_nothing_is_streamed(
    flags: dict[str, str], objects: list[dict[str, Any]], folder: Path, settings: dict[str, str]
) -> None:
    """The operator with an API server like one of Kubernetes 1.31: what there is, and what comes then."""
    folder.mkdir()
    off = {"feature-gates": "WatchList=false"}
    with (
        ControlPlane(apiserver_flags={**flags, **off}) as control_plane,
        furnished(control_plane, objects) as kube,
    ):
        kube.post(LLMDS, json=model("before")).raise_for_status()
        with program("operator", kube, control_plane, folder, **settings) as log:
            story = Story(kube)
            wait_for("the listed resource's status", lambda: story.reason("before") == "Loading")
            kube.post(LLMDS, json=model("after")).raise_for_status()
            wait_for("the watched resource's status", lambda: story.reason("after") == "Loading")
        assert "is forbidden" not in log()


def test_the_operator_asks_for_all_that_the_chart_grants_and_for_nothing_else(
    kube: httpx.Client,
    control_plane: ControlPlane,
    authorizer: Authorizer,
    flags: dict[str, str],
    objects: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    http_port, metrics_port = free_ports(2)
    settings = {
        "OCTAVO_ENGINE_IMAGE": "octavo-engine:test",
        "OCTAVO_BIND_ADDRESS": "127.0.0.1",
        "OCTAVO_HTTP_PORT": str(http_port),
        "OCTAVO_METRICS_PORT": str(metrics_port),
    }
    register(kube, metrics_port)
    access = tmp_path / "access.yaml"
    access.write_text("engineClients: [{podSelector: {}}]")
    policies = {"OCTAVO_NETWORK_ACCESS": str(access)}
    with program("operator", kube, control_plane, tmp_path, **settings, **policies):
        wait_for("the authority", lambda: len(trusted(kube)) == 1)
        former = trusted(kube)
        story = Story(kube)
        story.makes_all_children_and_puts_them_right()
        story.deletes_what_is_no_longer_wanted()
        story.makes_groups_and_a_single_pod_again()
        story.looks_at_who_has_its_name()
        story.tells_a_repair_twice()
        wait_for("the metrics API", lambda: _listens(metrics_port))
        ask_for_metrics(kube, metrics_port)
    kube.patch(CERTIFICATE, json={"data": {"tls.crt": ""}}, headers=MERGE).raise_for_status()
    with program("operator", kube, control_plane, tmp_path, **settings) as log:
        wait_for("a new authority", lambda: trusted(kube) and trusted(kube) != former)
        wait_for(
            "no policy",
            lambda: kube.get(f"{CHILDREN['networkpolicies']}networkpolicies/all").status_code == 404,
        )
        metrics = httpx.get(f"http://127.0.0.1:{http_port}/metrics").text
    assert re.findall(r'.*status="40[13]".*', metrics) == []
    assert "is forbidden" not in log()
    streamed = authorizer.of("operator")
    assert not any(verb == "list" for _, _, verb in streamed)
    lists_where_nothing_is_streamed(flags, objects, tmp_path / "listing", settings)
    assert authorizer.of("operator") - BY_THE_CLUSTER == granted(objects, "operator")


def _listens(port: int) -> bool:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        return httpx.get(f"https://127.0.0.1:{port}/healthz", verify=tls).is_success
    except httpx.HTTPError:
        return False


def test_the_router_asks_for_all_that_the_chart_grants_and_for_nothing_else(
    kube: httpx.Client,
    control_plane: ControlPlane,
    authorizer: Authorizer,
    objects: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    port, admin = free_ports(2)
    settings = {"OCTAVO_HOST": "127.0.0.1", "OCTAVO_PORT": str(port), "OCTAVO_ADMIN_PORT": str(admin)}

    def known() -> bool:
        try:
            return "routed" in httpx.get(f"http://127.0.0.1:{port}/v1/models").text
        except httpx.HTTPError:
            return False

    with program("router", kube, control_plane, tmp_path, **settings):
        asleep = {"minReplicas": 0, **AUTOSCALING}
        kube.post(LLMDS, json=model("routed", autoscaling=asleep)).raise_for_status()
        wait_for("the model", known)
        with contextlib.suppress(httpx.ReadTimeout):  # the request is held: there is no operator to hear it
            url = f"http://127.0.0.1:{port}/v1/completions"
            httpx.post(url, json={"model": "routed", "prompt": "x"}, timeout=0.5)
        wait_for("a wish for a pod", lambda: "wakeRequested" in kube.get(f"{LLMDS}/routed").json()["status"])
    assert authorizer.of("router") == granted(objects, "router")

    keyed = plain_objects("router.apiKeys.enabled=true")
    (role,) = [item for item in keyed if item["kind"] == "ClusterRole" and item["metadata"]["name"] == ROUTER]
    kube.put(f"{RBAC}/clusterroles/{ROUTER}", json=role).raise_for_status()
    labels = {"name": "keys", "labels": {"octavo.dev/api-keys": "true"}}
    secret = {"metadata": labels, "stringData": {"ada": KEY}}
    kube.post("/api/v1/namespaces/default/secrets", json=secret).raise_for_status()

    def opens() -> bool:
        headers = {"Authorization": f"Bearer {KEY}"}
        try:
            return "routed" in httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers).text
        except httpx.HTTPError:
            return False

    with program("router", kube, control_plane, tmp_path, **settings, OCTAVO_API_KEYS="true"):
        wait_for("the key", opens)
    assert authorizer.of("router") == granted(keyed, "router")
