"""The chart's network policies in force: only those whom they name reach an engine."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.network_policies import enforce, judge_again, removal, rules
from e2e.installation import changed
from e2e.kubectl import Kubectl
from e2e.paced_model import PACED
from e2e.traffic import ask
from e2e.waiting import wait_for
from images.parts import ROUTER

WATCHERS = "guarded-watchers"  # where a Prometheus would run
STRANGERS = "guarded-strangers"
ROUTERS = {"app.kubernetes.io/name": "octavo-router", "app.kubernetes.io/instance": "octavo"}
VALUES = {
    "networkPolicy": {
        "enabled": True,
        "alsoFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": WATCHERS}}}],
    }
}
SCRAPE = "import sys, urllib.request as r; r.urlopen(sys.argv[1] + '/metrics', timeout=2).read(1)"
SCALED = {"minReplicas": 1, "maxReplicas": 2, "concurrency": 64}


@pytest.fixture
def callers(kubectl: Kubectl, namespace: str) -> Iterator[dict[str, str]]:
    """Pods that do nothing by themselves, and their namespaces."""
    found = {"neighbour": namespace, "disguised": namespace, "stranger": STRANGERS, "watcher": WATCHERS}
    for space in (STRANGERS, WATCHERS):
        kubectl("create", "namespace", space)
    for name, space in found.items():
        labels = ROUTERS if name == "disguised" else {}
        kubectl.apply(idle_pod(name, labels), namespace=space)
    for name, space in found.items():
        kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", space, "--timeout=60s")
    yield found
    for space in (STRANGERS, WATCHERS):
        kubectl("delete", "namespace", space, "--wait=false")


def idle_pod(name: str, labels: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": ROUTER.image,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


@contextmanager
def enforced(cluster: Cluster, kubectl: Kubectl, address: str) -> Iterator[None]:
    """The policies that the API server has now, in both nodes, also for what is connected to `address`."""

    def everywhere(kind: str) -> list[dict[str, Any]]:
        return kubectl.items(kind, "--all-namespaces")

    text = rules(everywhere("networkpolicies"), everywhere("pods"), everywhere("namespaces"))
    try:
        for node in cluster.nodes:
            enforce(cluster.node_pid(node), text)
            judge_again(cluster.node_pid(node), address)
        yield
    finally:
        for node in cluster.nodes:
            enforce(cluster.node_pid(node), removal())


def reaching(kubectl: Kubectl, callers: dict[str, str], url: str) -> set[str]:
    """Those of the pods that get an answer."""
    found = set()
    for name, space in callers.items():
        try:
            kubectl("exec", name, "-n", space, "--", "python3", "-c", SCRAPE, url)
        except ClusterError as error:
            assert "timed out" in str(error)  # dropped, and not for another reason
        else:
            found.add(name)
    return found


def sampled(kubectl: Kubectl, namespace: str) -> datetime | None:
    """When the metric that the HPA scales by was read from the engine; None while nobody answers."""
    path = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/octavo_num_requests_in_flight"
    try:
        items = json.loads(kubectl("get", "--raw", path))["items"]
    except ClusterError:  # the operator's pods have only just changed
        return None
    return min((datetime.fromisoformat(item["timestamp"]) for item in items), default=None)


def test_only_those_who_may_reach_an_engine_do(
    deploy: Callable[..., str],
    callers: dict[str, str],
    openai_client: openai.OpenAI,
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: str,
) -> None:
    model = deploy("guarded", autoscaling=SCALED, **PACED)
    (engine,) = kubectl.items("pods", "-l", "octavo.dev/deployment=guarded", namespace=namespace)
    address = engine["status"]["podIP"]
    pod = f"http://{address}:8000"
    service = f"http://{kubectl.get('service', 'guarded', namespace=namespace)['spec']['clusterIP']}"
    assert reaching(kubectl, callers, pod) == set(callers)

    def policies() -> list[dict[str, Any]]:
        return kubectl.items("networkpolicies", namespace=namespace)

    with changed(kubectl, VALUES):
        wait_for("the policy", policies)
        with enforced(cluster, kubectl, address):
            since = datetime.now(UTC)
            assert reaching(kubectl, callers, pod) == {"watcher"}
            assert reaching(kubectl, callers, service) == {"watcher"}
            assert ask(openai_client, model)

            def scraped() -> bool:
                when = sampled(kubectl, namespace)
                return when is not None and when > since

            wait_for("a sample for the HPA", scraped)
        (same,) = kubectl.items("pods", "-l", "octavo.dev/deployment=guarded", namespace=namespace)
        assert same["metadata"]["uid"] == engine["metadata"]["uid"]

    wait_for("no policy", lambda: not policies())
    assert reaching(kubectl, callers, pod) == set(callers)
    assert ask(openai_client, model)
