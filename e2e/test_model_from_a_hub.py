"""A model from a hub: refused without a token, tried again while the hub fails, then downloaded once."""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from e2e.cluster.cluster import Cluster
from e2e.cluster.network import HOST
from e2e.conftest import conditions, wait_ready
from e2e.kubectl import Kubectl
from e2e.servers.embedded import embedded_model
from e2e.servers.hub import Hub, Repository
from e2e.traffic import ask
from e2e.waiting import wait_for

NAME = "hub/smollm2"
ENGINE_USER = 65532
BYTES_PER_SECOND = 12_000_000  # slow enough to be seen
APART = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
}


@pytest.fixture
def hub(octavo: str) -> Iterator[Hub]:
    """A hub that the cluster's pods reach, with one gated model."""
    hub = Hub(HOST)
    name, content = embedded_model()
    hub.repositories[NAME] = Repository({name: content, "README.md": b"text"}, gated=True)
    hub.faults.bytes_per_second = BYTES_PER_SECOND
    with hub.running():
        yield hub


@pytest.fixture
def claim(cluster: Cluster, kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """A claim that pods of both nodes write to."""
    folder = cluster.state.root / "shared" / namespace
    folder.mkdir(parents=True)
    os.chown(folder, ENGINE_USER, ENGINE_USER)
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {**common, "volumeName": namespace, "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl.apply(volume)
    kubectl.apply(claim, namespace=namespace)
    yield "models"
    kubectl("delete", "persistentvolume", namespace, "--wait=false")


def test_a_model_is_downloaded_once_and_its_progress_is_seen(
    deploy: Callable[..., str],
    openai_client: openai.OpenAI,
    kubectl: Kubectl,
    namespace: str,
    hub: Hub,
    claim: str,
) -> None:
    model = {"source": f"hf://{NAME}", "endpoint": hub.url, "cache": {"claimName": claim}}
    name = deploy("far", ready=False, model=model, scheduling={"topologySpreadConstraints": [APART]})

    def stalled() -> str:
        condition = conditions(kubectl, "far", namespace).get("Stalled", {})
        return str(condition["message"]) if condition.get("status") == "True" else ""

    assert f"hf://{NAME} is gated" in wait_for("Stalled", stalled)

    hub.faults.statuses["listing"] = [503] * 4  # 15 s of tries
    kubectl("create", "secret", "generic", "hub", "-n", namespace, f"--from-literal=token={hub.token}")
    patch = json.dumps({"spec": {"model": {"secretName": "hub"}}})
    kubectl("patch", "llmdeployment", "far", "-n", namespace, "--type=merge", "-p", patch)

    def told() -> str:
        ready = conditions(kubectl, "far", namespace)["Ready"]
        return str(ready["message"]) if ready["reason"] == "DownloadFailed" else ""

    assert re.search(r"answered 503\. It is tried again\.$", wait_for("the failed try", told))

    def row() -> str:
        shown = kubectl("get", "llmd", "far", "-n", namespace, "--no-headers")
        return shown if re.search(r" [1-9]\d?% of .* Downloading ", shown) else ""

    seen = wait_for("progress in kubectl get", row)
    status = kubectl.get("llmdeployment", "far", namespace=namespace)["status"]
    print(seen, json.dumps(status.get("download")))
    wait_ready(kubectl, "far", namespace)
    assert "download" not in kubectl.get("llmdeployment", "far", namespace=namespace)["status"]
    assert ask(openai_client, name)

    (weights,) = [path for path in hub.repositories[NAME].files if path.endswith(".gguf")]
    downloads = len(hub.contents(weights))
    hub.repositories.clear()  # the second pod has nobody to ask
    kubectl("scale", "llmdeployment", "far", "-n", namespace, "--replicas=2")
    wait_ready(kubectl, "far", namespace)
    assert len(hub.contents(weights)) == downloads == 1
    pods = kubectl.items("pods", "-l", "octavo.dev/deployment=far", namespace=namespace)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    assert ask(openai_client, name)
