"""The HPA's way to its metrics: through the real API server's aggregation layer, and past it."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.apiserver

SERVICE = {"namespace": "octavo-system", "name": "octavo-operator"}
EXPOSITION = b"""# TYPE octavo_num_requests_waiting gauge
octavo_num_requests_waiting{model_name="smollm2"} 7
octavo_kv_cache_usage_ratio{model_name="smollm2"} 0.375
"""


class Engine(http.server.BaseHTTPRequestHandler):
    """Answers /metrics as an engine does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(EXPOSITION)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def engine_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def served(kube: Any, new_operator: Any, engine_port: int) -> Iterator[Any]:
    """An operator that serves metrics, behind APIServices as the chart makes them."""
    operator = new_operator(OCTAVO_ENGINE_PORT=str(engine_port), OCTAVO_METRICS_API="true")
    external = {"type": "ExternalName", "externalName": "localhost"}
    kube.create("Service", {"metadata": SERVICE, "spec": external}).raise_for_status()
    for version, priority in (("v1beta2", 200), ("v1beta1", 100)):
        spec = {
            "group": "custom.metrics.k8s.io",
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": priority,
            "service": {**SERVICE, "port": operator.metrics_port},
        }
        body = {"metadata": {"name": f"{version}.custom.metrics.k8s.io"}, "spec": spec}
        kube.request("POST", "/apis/apiregistration.k8s.io/v1/apiservices", json=body)
    assert operator.stop() == 0  # the authority is written at start, and once a minute
    operator.start()
    yield operator
    assert "Traceback" not in operator.log, operator.log
    assert operator.stop() == 0


@pytest.fixture(scope="module")
def pods(kube: Any, served: Any, body: Any) -> str:
    """A namespace with a ready and a loading engine pod."""
    namespace: str = kube.namespace()
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    deployment = kube.wait("the Deployment", lambda: kube.get("Deployment", namespace, "smollm2"))
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    template = deployment["spec"]["template"]
    for name, ready in (("ready", "True"), ("loading", "False")):
        meta = {"name": name, "namespace": namespace, **template["metadata"]}
        kube.create("Pod", {"metadata": meta, "spec": template["spec"]}).raise_for_status()
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": ready}],
        }
        kube.patch("Pod", namespace, name, {"status": status}, "/status").raise_for_status()
    return namespace


def values(kube: Any, namespace: str, version: str, metric: str, selector: str = "") -> dict[str, str]:
    path = f"/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/pods/*/{metric}"
    answer = kube.http.get(path, params={"labelSelector": selector} if selector else {})
    items = answer.json().get("items", []) if answer.is_success else []
    return {item["describedObject"]["name"]: item["value"] for item in items}


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
@pytest.mark.parametrize(
    ("metric", "value"), [("octavo_num_requests_waiting", "7"), ("octavo_kv_cache_usage_ratio", "375m")]
)
def test_only_ready_pods_have_values(kube: Any, pods: str, version: str, metric: str, value: str) -> None:
    found = kube.wait("values", lambda: values(kube, pods, version, metric, "octavo.dev/deployment=smollm2"))
    assert found == {"ready": value}


def test_selector_leaves_out_other_pods(kube: Any, pods: str) -> None:
    kube.wait("values", lambda: values(kube, pods, "v1beta2", "octavo_num_requests_waiting"))
    assert values(kube, pods, "v1beta2", "octavo_num_requests_waiting", "octavo.dev/deployment=other") == {}


def test_apiservices_are_available_and_discoverable(kube: Any, served: Any) -> None:
    def available() -> bool:
        path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.custom.metrics.k8s.io"
        conditions = kube.request("GET", path).get("status", {}).get("conditions", [])
        return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)

    kube.wait("availability", available, 60)
    found = kube.request("GET", "/apis/custom.metrics.k8s.io/v1beta2")
    assert {r["name"] for r in found["resources"]} == {
        "pods/octavo_num_requests_in_flight",
        "pods/octavo_num_requests_waiting",
        "pods/octavo_kv_cache_usage_ratio",
    }


def direct(kube: Any, served: Any, path: str, token: str | None = None, **how: Any) -> httpx.Response:
    """A request past the API server."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if "certificate" in how:
        tls.load_cert_chain(*how.pop("certificate"))
    headers = how.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    url = f"https://127.0.0.1:{served.metrics_port}/apis/custom.metrics.k8s.io/v1beta2{path}"
    return httpx.get(url, verify=tls, headers=headers)


def token_of(kube: Any, name: str) -> str:
    kube.create("ServiceAccount", {"metadata": {"name": name, "namespace": "default"}})
    path = kube.path("ServiceAccount", "default", name) + "/token"
    token: str = kube.request("POST", path, json={"spec": {"expirationSeconds": 3600}})["status"]["token"]
    return token


def test_callers_without_credentials_are_refused(kube: Any, served: Any, pods: str) -> None:
    assert direct(kube, served, "").status_code == 401
    assert direct(kube, served, "", token="made-up").status_code == 401
    forged = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    assert direct(kube, served, "", headers=forged).status_code == 401


def test_callers_without_permission_are_refused_and_with_it_served(kube: Any, served: Any, pods: str) -> None:
    path = f"/namespaces/{pods}/pods/*/octavo_num_requests_waiting"
    token = token_of(kube, "stranger")
    refused = direct(kube, served, path, token=token)
    assert refused.status_code == 403
    assert "system:serviceaccount:default:stranger may not get" in refused.json()["message"]
    assert direct(kube, served, "", token=token).is_success  # discovery is for everybody
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rule = {
        "apiGroups": ["custom.metrics.k8s.io"],
        "resources": ["pods/octavo_num_requests_waiting"],
        "verbs": ["get"],
    }
    kube.request("POST", f"{rbac}/clusterroles", json={"metadata": {"name": "reader"}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "namespace": "default", "name": "reader"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"}
    bound = {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
    kube.request("POST", f"{rbac}/clusterrolebindings", json=bound)
    assert direct(kube, served, path, token=token_of(kube, "reader")).json()["items"]


def test_a_certificate_of_the_front_proxys_authority_speaks_for_others(
    kube: Any, served: Any, pods: str
) -> None:
    pki = Path(kube.kubeconfig).parent / "pki"
    certificate = (pki / "front-proxy-client.crt", pki / "front-proxy-client.key")
    path = f"/namespaces/{pods}/pods/ready/octavo_num_requests_waiting"
    named = {"X-Remote-User": "boss", "X-Remote-Group": "system:masters"}
    assert (
        direct(kube, served, path, certificate=certificate, headers=named).json()["items"][0]["value"] == "7"
    )
    nobody = {"X-Remote-User": "nobody"}
    assert direct(kube, served, path, certificate=certificate, headers=nobody).status_code == 403


def test_the_standby_answers_too_and_registers_nothing(
    kube: Any, served: Any, pods: str, new_operator: Any, engine_port: int
) -> None:
    standby = new_operator(OCTAVO_ENGINE_PORT=str(engine_port), OCTAVO_METRICS_API="true")
    pki = Path(kube.kubeconfig).parent / "pki"
    certificate = (pki / "front-proxy-client.crt", pki / "front-proxy-client.key")
    boss = {"X-Remote-User": "boss", "X-Remote-Group": "system:masters"}
    path = f"/namespaces/{pods}/pods/*/octavo_num_requests_waiting"
    kube.wait("its port", lambda: listens(kube, standby))
    first = direct(kube, standby, path, certificate=certificate, headers=boss)
    assert [item["value"] for item in first.json()["items"]] == ["7"]
    assert (standby.metric("octavo_operator_leader"), standby.writes) == (0, 1)  # an access review
    assert standby.stop() == 0


def listens(kube: Any, operator: Any) -> bool:
    try:
        return direct(kube, operator, "").status_code == 401
    except httpx.HTTPError:
        return False


def test_unknown_metrics_and_wrong_selectors_are_told(kube: Any, served: Any, pods: str) -> None:
    base = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{pods}/pods/*/"
    kube.wait("values", lambda: values(kube, pods, "v1beta2", "octavo_num_requests_waiting"))
    assert "there is no metric 'cpu'" in kube.http.get(base + "cpu").json()["message"]
    wrong = kube.http.get(base + "octavo_num_requests_waiting", params={"labelSelector": "a in b"})
    assert (wrong.status_code, wrong.json()["reason"]) == (400, "BadRequest")
