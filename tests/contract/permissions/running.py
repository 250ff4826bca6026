"""Operator and router as processes under their own accounts, on a server that has the chart's rules."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from e2e.cluster.control_plane import ControlPlane
from e2e.waiting import wait_for
from tests.contract.permissions.authorizer import NAMESPACE
from tests.contract.permissions.story import LLMDS

ROOT = Path(__file__).parents[3]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": RBAC + "/namespaces/{}/roles",
    "RoleBinding": RBAC + "/namespaces/{}/rolebindings",
    "ClusterRole": RBAC + "/clusterroles",
    "ClusterRoleBinding": RBAC + "/clusterrolebindings",
}


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
        wait_for("kube-system", lambda: http.get("/api/v1/namespaces/kube-system").is_success)
        for item in objects:
            if item["kind"] in PATHS:
                wait_for(f"a place for {item['kind']}", lambda i=item: _created(http, i))
        wait_for("the resource's storage", lambda: http.get(LLMDS).is_success)
        yield http


def _created(http: httpx.Client, item: dict[str, Any]) -> bool:
    path = PATHS[item["kind"]].format(item["metadata"].get("namespace", ""))
    answer = http.post(path, json=item)
    assert answer.status_code in (201, 404, 409), answer.text
    return answer.status_code != 404


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
