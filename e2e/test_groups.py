"""A replica that is a group of pods on two nodes answers, fails and comes back as one; the GPUs it lacks."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from e2e.cluster.cluster import Cluster
from e2e.conftest import conditions, wait_ready
from e2e.figures import keep
from e2e.killing import kill_container
from e2e.kubectl import Kubectl
from e2e.traffic import ask
from e2e.waiting import wait_for

APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"octavo.dev/deployment": "pair"}},
            }
        ]
    }
}
START_SECONDS = 240  # Ray and torch start in two pods, on few cores
CONDITIONS = (
    "a group of two pods on two nodes of the local cluster (e2e/test_groups.py), SmolLM2-135M-Instruct, "
    "PP 2, Ray and gloo; one run"
)
LOST = "The engine ended because rank 1 (stage 1, shard 0) on pair-0-1 "
GPUS = "/status/capacity/nvidia.com~1gpu"


def pods(kubectl: Kubectl, name: str, namespace: str) -> dict[str, dict[str, Any]]:
    found = kubectl.items("pods", "-l", f"octavo.dev/deployment={name}", namespace=namespace)
    return {pod["metadata"]["name"]: pod for pod in found}


def in_service(kubectl: Kubectl, name: str, namespace: str) -> dict[str, bool]:
    """Pods behind the Service, and whether they take requests."""
    slices = kubectl.items("endpointslices", "-l", f"kubernetes.io/service-name={name}", namespace=namespace)
    endpoints = [e for each in slices for e in each.get("endpoints") or ()]
    return {e["targetRef"]["name"]: bool(e["conditions"].get("ready")) for e in endpoints}


def prompt_tokens(kubectl: Kubectl, pod: str, namespace: str) -> float:
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:8000/proxy/metrics"
    lines = kubectl("get", "--raw", path).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("octavo_prompt_tokens_total"))


@pytest.mark.timeout(900)
def test_a_group_on_two_nodes_answers_and_recovers_as_one(
    deploy: Callable[..., str],
    openai_client: openai.OpenAI,
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: str,
) -> None:
    began = time.monotonic()
    model = deploy(
        "pair",
        ready=False,
        parallelism={"pipeline": 2, "pods": 2},
        resources={"cpu": "200m", "memory": "3Gi"},
        scheduling={"affinity": APART},
        engine={"maxModelLen": 512},
    )
    wait_ready(kubectl, "pair", namespace, START_SECONDS)
    report("cluster_apply_to_ready_s", time.monotonic() - began)
    group = pods(kubectl, "pair", namespace)
    assert set(group) == {"pair-0-0", "pair-0-1"}
    assert len({pod["spec"]["nodeName"] for pod in group.values()}) == 2
    assert in_service(kubectl, "pair", namespace) == {"pair-0-0": True}
    before = ask(openai_client, model)
    assert before

    kill_container(cluster, kubectl, "pair-0-1", namespace)
    killed = time.monotonic()
    wait_for("the group out of service", lambda: not any(in_service(kubectl, "pair", namespace).values()))
    wait_for("the status", lambda: conditions(kubectl, "pair", namespace)["Available"]["status"] == "False")
    with pytest.raises(openai.APIStatusError) as refused:
        ask(openai_client, model)
    assert refused.value.status_code == 503
    assert "has no ready pod" in str(refused.value)  # the router has not even tried one
    wait_for("the rank's name", lambda: LOST in conditions(kubectl, "pair", namespace)["Ready"]["message"])
    print(conditions(kubectl, "pair", namespace)["Ready"]["message"])
    wait_ready(kubectl, "pair", namespace, START_SECONDS)
    report("cluster_killed_pod_to_ready_s", time.monotonic() - killed)

    assert prompt_tokens(kubectl, "pair-0-0", namespace) == 0  # nothing was sent to it meanwhile
    former, present = group["pair-0-0"], pods(kubectl, "pair", namespace)["pair-0-0"]
    restarted = present["status"]["containerStatuses"][0]["restartCount"] >= 1
    assert restarted or present["metadata"]["uid"] != former["metadata"]["uid"]
    wait_for("the router's word", lambda: _answer(openai_client, model) == before)
    assert prompt_tokens(kubectl, "pair-0-0", namespace) > 0


def report(figure: str, seconds: float) -> None:
    """Print how long it took; with OCTAVO_KEEP_FIGURES=1 it is kept."""
    print(f"\n{figure}: {seconds:.0f} s", flush=True)
    if os.environ.get("OCTAVO_KEEP_FIGURES"):
        words = f"{CONDITIONS}, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}"
        keep("engine-parallel-cpu", figure, round(seconds, 1), "s", words)


def _answer(client: openai.OpenAI, model: str) -> str | None:
    try:
        return ask(client, model)
    except openai.APIStatusError:
        return None


@pytest.fixture
def advertise(kubectl: Kubectl, octavo: str) -> Iterator[Callable[[int], None]]:
    """Have every node say that it has so many GPUs."""
    nodes = [node["metadata"]["name"] for node in kubectl.items("nodes")]

    def say(count: int) -> None:
        for node in nodes:
            patch = json.dumps([{"op": "add", "path": GPUS, "value": str(count)}])
            kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", patch)

    yield say
    for node in nodes:
        patch = json.dumps([{"op": "remove", "path": GPUS}])
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", patch)


def test_a_group_without_enough_gpus_says_which_member_lacks_them(
    deploy: Callable[..., str], advertise: Callable[[int], None], kubectl: Kubectl, namespace: str
) -> None:
    def reason() -> dict[str, Any]:
        return conditions(kubectl, "big", namespace).get("Ready", {})

    deploy(
        "big",
        ready=False,
        parallelism={"tensor": 2},
        resources={"gpu": 1, "cpu": "10m", "memory": "64Mi"},
        image="example.invalid/none:1",
    )
    wait_for("no GPUs", lambda: reason().get("reason") == "Unschedulable")
    assert "pod big-0-0 cannot be scheduled" in reason()["message"]
    assert "Insufficient nvidia.com/gpu" in reason()["message"]
    advertise(1)
    wait_for("both scheduled", lambda: len(nodes_of(kubectl, namespace)) == 2)
    assert len(set(nodes_of(kubectl, namespace).values())) == 2  # a GPU each
    wait_for("another reason", lambda: reason()["reason"] != "Unschedulable")


def nodes_of(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Where the pods are that have a node."""
    found = pods(kubectl, "big", namespace)
    return {name: pod["spec"]["nodeName"] for name, pod in found.items() if pod["spec"].get("nodeName")}
