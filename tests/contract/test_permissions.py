"""Operator and router run under the chart's rules, and an API server tells which of them are asked for."""

import contextlib
import http.server
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane, free_ports

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
NAMESPACE = "octavo-system"
Permission = tuple[str, str, str]
"""Group, resource and verb."""
LLMDS = "/apis/octavo.dev/v1alpha1/namespaces/default/llmdeployments"
CHILDREN = {
    "deployments": "/apis/apps/v1/namespaces/default/",
    "statefulsets": "/apis/apps/v1/namespaces/default/",
    "groupscales": "/apis/octavo.dev/v1alpha1/namespaces/default/",
    "services": "/api/v1/namespaces/default/",
    "serviceaccounts": "/api/v1/namespaces/default/",
    "persistentvolumeclaims": "/api/v1/namespaces/default/",
    "poddisruptionbudgets": "/apis/policy/v1/namespaces/default/",
    "horizontalpodautoscalers": "/apis/autoscaling/v2/namespaces/default/",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/default/",
}
APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
CERTIFICATE = f"/api/v1/namespaces/{NAMESPACE}/secrets/octavo-metrics-tls"
MERGE = {"Content-Type": "application/merge-patch+json"}
OF_GROUPS = {"statefulsets", "groupscales"}
HASH = "octavo.dev/desired-hash"
TYPES = {"groupscales": {"apiVersion": "octavo.dev/v1alpha1", "kind": "GroupScale"}}
GROUPS = {"parallelism": {"tensor": 2, "pods": 2}}
AUTOSCALING = {"maxReplicas": 4, "queueDepth": 4}
BY_THE_CLUSTER = {  # its own roles, to which the chart binds
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("", "configmaps", "get"),
}


class Authorizer:
    """Hears every question that the API server has, has no opinion, and so leaves the answer to RBAC."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, Permission]] = set()
        heard = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if what := review["spec"].get("resourceAttributes"):
                    sub = f"/{what['subresource']}" if what.get("subresource") else ""
                    permission = (what.get("group", ""), what["resource"] + sub, what["verb"])
                    heard.add((review["spec"].get("user", ""), permission))
                answer = json.dumps({**review, "status": {"allowed": False}}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, component: str) -> set[Permission]:
        """What that component's account has asked for; a plugin asks for * first."""
        user = f"system:serviceaccount:{NAMESPACE}:octavo-{component}"
        return {permission for name, permission in self.asked if name == user and permission[0] != "*"}


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


def wait(what: str, look: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def furnished(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> Iterator[httpx.Client]:
    """A client with all rights, of a server that has the chart's accounts and rules."""
    pki = control_plane.state.pki
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    with httpx.Client(base_url=control_plane.url, verify=tls, timeout=30) as http:
        for path in (ROOT / "crds").glob("*.yaml"):
            crd = yaml.safe_load(path.read_text())
            http.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd).raise_for_status()
        http.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}}).raise_for_status()
        wait("kube-system", lambda: http.get("/api/v1/namespaces/kube-system").is_success)
        for item in objects:
            if item["kind"] in PATHS:
                wait(f"a place for {item['kind']}", lambda i=item: _created(http, i))
        wait("the resource's storage", lambda: http.get(LLMDS).is_success)
        yield http


@pytest.fixture(scope="module")
def kube(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> Iterator[httpx.Client]:
    with furnished(control_plane, objects) as http:
        yield http


RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": RBAC + "/namespaces/{}/roles",
    "RoleBinding": RBAC + "/namespaces/{}/rolebindings",
    "ClusterRole": RBAC + "/clusterroles",
    "ClusterRoleBinding": RBAC + "/clusterrolebindings",
}


def _created(http: httpx.Client, item: dict[str, Any]) -> bool:
    path = PATHS[item["kind"]].format(item["metadata"].get("namespace", ""))
    answer = http.post(path, json=item)
    assert answer.status_code in (201, 404, 409), answer.text
    return answer.status_code != 404


def granted(objects: list[dict[str, Any]], component: str) -> set[Permission]:
    """All that the chart's own roles give to that component's account."""
    bindings = [
        item["roleRef"]["name"]
        for item in objects
        if item["kind"].endswith("Binding")
        and any(subject["name"] == f"octavo-{component}" for subject in item["subjects"])
    ]
    return {
        (group, resource, verb)
        for item in objects
        if item["kind"] in ("Role", "ClusterRole") and item["metadata"]["name"] in bindings
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@contextmanager
def program(
    component: str, kube: httpx.Client, control_plane: ControlPlane, folder: Path, **settings: str
) -> Iterator[Callable[[], str]]:
    """The component as a process under its own account; gives its log."""
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/octavo-{component}/token"
    token = kube.post(path, json={"spec": {"expirationSeconds": 3600}}).json()["status"]["token"]
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    own = {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")}
    environment = {
        **own,
        **settings,
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PYTHONPATH": str(ROOT / component),
    }
    log = folder / f"{component}.log"
    with log.open("ab") as file:
        command = [sys.executable, "-m", f"octavo_{component}"]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield log.read_text
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()


def model(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": "hf://org/model", "cache": {"size": "1Gi"}}, **spec},
    }


class Story:
    """Everything that the operator does, one thing after another."""

    def __init__(self, kube: httpx.Client) -> None:
        self._kube = kube

    def reason(self, name: str) -> str:
        found = self._kube.get(f"{LLMDS}/{name}").json().get("status", {}).get("conditions", [])
        return next((c["reason"] for c in found if c["type"] == "Ready"), "")

    def makes_all_children_and_puts_them_right(self) -> None:
        self._kube.post(LLMDS, json=model("all", autoscaling=AUTOSCALING)).raise_for_status()
        wait("the status", lambda: self.reason("all") == "Loading")
        for kind in CHILDREN.keys() - OF_GROUPS:
            self.puts_right(kind)

    def puts_right(self, kind: str, name: str = "all") -> None:
        """What somebody took from a child."""
        path = f"{CHILDREN[kind]}{kind}/{name}"
        taken = {"metadata": {"annotations": {HASH: None}}}
        wait(f"{kind}", lambda: self._kube.patch(path, json=taken, headers=MERGE).is_success)
        wait(
            f"{kind} put right",
            lambda: HASH in self._kube.get(path).json()["metadata"].get("annotations", {}),
        )

    def deletes_what_is_no_longer_wanted(self) -> None:
        spec = {
            "autoscaling": None,
            "podTemplate": {"serviceAccountName": "other"},
            "model": {"cache": None},
        }
        self._kube.patch(f"{LLMDS}/all", json={"spec": spec}, headers=MERGE).raise_for_status()
        for kind in ("horizontalpodautoscalers", "serviceaccounts", "persistentvolumeclaims"):
            wait(f"{kind} gone", lambda k=kind: self._leaves(k))

    def makes_groups_and_a_single_pod_again(self) -> None:
        self._kube.patch(f"{LLMDS}/all", json={"spec": GROUPS}, headers=MERGE).raise_for_status()
        wait("no Deployment", lambda: self._leaves("deployments"))
        path = f"{CHILDREN['statefulsets']}statefulsets/all-0"
        wait("a group", lambda: self._kube.get(path).is_success)
        self.puts_right("groupscales")
        self.puts_right("statefulsets", "all-0")
        self._loses_a_member(self._kube.get(path).json()["spec"]["template"])
        body = {"spec": {"parallelism": None}}
        self._kube.patch(f"{LLMDS}/all", json=body, headers=MERGE).raise_for_status()
        for kind, name in (("statefulsets", "all-0"), ("groupscales", "all"), ("services", "all-members")):
            wait(f"no {kind}", lambda k=kind, n=name: self._leaves(k, n))
        wait("a Deployment", lambda: not self._leaves("deployments"))

    def _loses_a_member(self, template: dict[str, Any]) -> None:
        accounts, pods = "/api/v1/namespaces/default/serviceaccounts", "/api/v1/namespaces/default/pods"
        account = {"metadata": {"name": template["spec"]["serviceAccountName"]}}
        self._kube.post(accounts, json=account).raise_for_status()
        for name, node in (("all-0-0", None), ("all-0-1", "of-nobody")):  # where no kubelet ever ends it
            meta, spec = {**template["metadata"], "name": name}, {**template["spec"], "nodeName": node}
            self._kube.post(pods, json={"metadata": meta, "spec": spec}).raise_for_status()
        self._kube.delete(f"{pods}/all-0-1").raise_for_status()
        wait("no leader", lambda: self._kube.get(f"{pods}/all-0-0").status_code == 404)

    def _leaves(self, kind: str, name: str = "all") -> bool:
        """Some have a finalizer, which nobody takes away where no controllers run."""
        found = self._kube.get(f"{CHILDREN[kind]}{kind}/{name}")
        return found.status_code == 404 or "deletionTimestamp" in found.json()["metadata"]

    def looks_at_who_has_its_name(self) -> None:
        """For each kind one resource, of which this child's name is taken."""
        for kind, base in CHILDREN.items():
            own = self._kube.get(f"{base}{kind}/all")
            found = own.json() if own.is_success else FOREIGN[kind]
            name = f"taken-{kind}-0" if kind == "statefulsets" else f"taken-{kind}"
            meta = {"name": name, "namespace": "default"}
            spec = {k: v for k, v in found.get("spec", {}).items() if not k.startswith("clusterIP")}
            body = {**TYPES.get(kind, {}), **({"spec": spec} if spec else {}), "metadata": meta}
            self._kube.post(base + kind, json=body).raise_for_status()
            self._kube.post(LLMDS, json=model(f"taken-{kind}", **of_kind(kind))).raise_for_status()
            wait(f"{kind} to be told", lambda k=kind: self.reason(f"taken-{k}") == "NameTaken")

    def tells_a_repair_twice(self) -> None:
        """The second time the event is counted up; both times it asks whether the resource is still there."""
        events = "/api/v1/namespaces/default/events"
        for count in (1, 2):
            path = f"{CHILDREN['deployments']}deployments/all"
            self._kube.delete(path).raise_for_status()
            wait("a repair", lambda p=path: self._kube.get(p).is_success)

            def told(times: int = count) -> bool:
                items = self._kube.get(events).json()["items"]
                return any(e["reason"] == "Repaired" and e.get("count") == times for e in items)

            wait("the event", told)


def of_kind(kind: str) -> dict[str, Any]:
    """The spec of a resource that has such a child."""
    return GROUPS if kind in OF_GROUPS else {"autoscaling": AUTOSCALING}


LABELS = {"matchLabels": {"app": "x"}}
FOREIGN: dict[str, dict[str, Any]] = {
    "networkpolicies": {"spec": {"podSelector": {}}},
    "groupscales": {"spec": {"selector": "app=x"}},
    "statefulsets": {
        "spec": {
            "serviceName": "x",
            "selector": LABELS,
            "template": {
                "metadata": {"labels": LABELS["matchLabels"]},
                "spec": {"containers": [{"name": "x", "image": "x"}]},
            },
        }
    },
    "serviceaccounts": {},
    "horizontalpodautoscalers": {
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
            "maxReplicas": 2,
        }
    },
}


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
            wait("the listed resource's status", lambda: story.reason("before") == "Loading")
            kube.post(LLMDS, json=model("after")).raise_for_status()
            wait("the watched resource's status", lambda: story.reason("after") == "Loading")
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
        wait("the authority", lambda: len(trusted(kube)) == 1)
        former = trusted(kube)
        story = Story(kube)
        story.makes_all_children_and_puts_them_right()
        story.deletes_what_is_no_longer_wanted()
        story.makes_groups_and_a_single_pod_again()
        story.looks_at_who_has_its_name()
        story.tells_a_repair_twice()
        wait("the metrics API", lambda: _listens(metrics_port))
        ask_for_metrics(kube, metrics_port)
    kube.patch(CERTIFICATE, json={"data": {"tls.crt": ""}}, headers=MERGE).raise_for_status()
    with program("operator", kube, control_plane, tmp_path, **settings) as log:
        wait("a new authority", lambda: trusted(kube) and trusted(kube) != former)
        wait(
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
        wait("the model", known)
        with contextlib.suppress(httpx.ReadTimeout):  # the request is held: there is no operator to hear it
            url = f"http://127.0.0.1:{port}/v1/completions"
            httpx.post(url, json={"model": "routed", "prompt": "x"}, timeout=0.5)
        wait("a wish for a pod", lambda: "wakeRequested" in kube.get(f"{LLMDS}/routed").json()["status"])
    assert authorizer.of("router") == granted(objects, "router")
