"""Groups of pods on a real API server: made, repaired, replaced whole, scaled, and what keeps them."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

PAIR = {"parallelism": {"tensor": 2, "pods": 2}}
SHORT = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def start(kube: Any, body: Any, **spec: Any) -> str:
    namespace: str = kube.namespace()
    kube.create("LLMDeployment", body(namespace, **{**PAIR, **spec})).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    return namespace


def group(kube: Any, namespace: str, index: int) -> Any:
    found = kube.get("StatefulSet", namespace, f"smollm2-{index}")
    return None if found is None or "deletionTimestamp" in found["metadata"] else found


def report(kube: Any, namespace: str, index: int, ready: int) -> None:
    """What the StatefulSet's controller would say."""
    generation = group(kube, namespace, index)["metadata"]["generation"]
    status = {"observedGeneration": generation, "replicas": 2, "readyReplicas": ready}
    path = f"smollm2-{index}"
    kube.patch("StatefulSet", namespace, path, {"status": status}, "/status").raise_for_status()


def end(kube: Any, namespace: str, index: int) -> None:
    """What the garbage collector does when the pods are gone."""
    path = f"smollm2-{index}"
    kube.patch("StatefulSet", namespace, path, {"metadata": {"finalizers": None}}).raise_for_status()


def test_a_group_is_made_and_is_ready_as_one(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body)
    assert kube.get("Service", namespace, "smollm2-members")["spec"]["clusterIP"] == "None"
    assert kube.get("Deployment", namespace, "smollm2") is None
    report(kube, namespace, 0, ready=1)
    report(kube, namespace, 0, ready=2)
    kube.wait_reason(namespace, "smollm2", "AllPodsReady")
    listed = kube.kubectl("get", "llmd", "-o", "wide", "-n", namespace).stdout.splitlines()
    assert listed[0].split()[:4] == ["NAME", "MODEL", "READY", "PODS"]
    assert listed[1].split()[2:4] == ["1/1", "2"]


def test_an_edited_or_deleted_group_is_put_right(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body)
    kube.patch("StatefulSet", namespace, "smollm2-0", {"spec": {"replicas": 5}}).raise_for_status()
    kube.wait("two pods again", lambda: group(kube, namespace, 0)["spec"]["replicas"] == 2)
    kube.delete("StatefulSet", namespace, "smollm2-0")
    kube.wait("a group again", lambda: group(kube, namespace, 0))
    kube.delete("Service", namespace, "smollm2-members")
    kube.wait("names again", lambda: kube.get("Service", namespace, "smollm2-members"))


def test_groups_are_scaled_by_whoever_scales_the_target(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body, autoscaling={"maxReplicas": 4})
    assert group(kube, namespace, 0)
    scaled = {"spec": {"replicas": 3}}
    kube.patch("GroupScale", namespace, "smollm2", scaled, "/scale").raise_for_status()
    kube.wait("three groups", lambda: all(group(kube, namespace, i) for i in range(3)))
    scale = kube.request("GET", kube.path("GroupScale", namespace, "smollm2") + "/scale")
    assert "apps.kubernetes.io/pod-index=0" in scale["status"]["selector"]
    kube.patch("GroupScale", namespace, "smollm2", {"spec": {"replicas": 1}}, "/scale").raise_for_status()
    kube.wait("one group", lambda: not group(kube, namespace, 1) and not group(kube, namespace, 2))
    assert "replicas" not in kube.get("LLMDeployment", namespace, "smollm2")["spec"]  # Git sees no drift


def test_a_new_spec_replaces_groups_whole(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body)
    report(kube, namespace, 0, ready=2)
    kube.wait_reason(namespace, "smollm2", "AllPodsReady")
    kube.patch("LLMDeployment", namespace, "smollm2", {"spec": {"drainSeconds": 7}}).raise_for_status()
    kube.wait("a surge group", lambda: group(kube, namespace, 1))
    assert group(kube, namespace, 0)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 135
    report(kube, namespace, 1, ready=2)
    kube.wait("the old group to end", lambda: not group(kube, namespace, 0))
    end(kube, namespace, 0)
    new = kube.wait("its successor", lambda: group(kube, namespace, 0))
    assert new["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 22
    assert group(kube, namespace, 1)
    report(kube, namespace, 0, ready=2)
    kube.wait("the surge group to end", lambda: not group(kube, namespace, 1))
    kube.wait_reason(namespace, "smollm2", "AllPodsReady")


def member(kube: Any, namespace: str, number: int, **spec: Any) -> None:
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    template = group(kube, namespace, 0)["spec"]["template"]
    meta = {"name": f"smollm2-0-{number}", "namespace": namespace, **template["metadata"]}
    kube.create("Pod", {"metadata": meta, "spec": {**template["spec"], **spec}}).raise_for_status()


def test_the_leader_goes_with_a_pod_that_leaves(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body)
    member(kube, namespace, 0)
    member(kube, namespace, 1, nodeName="of-nobody")  # where no kubelet ever ends it
    kube.delete("Pod", namespace, "smollm2-0-1")
    kube.wait("the leader gone", lambda: not kube.get("Pod", namespace, "smollm2-0-0"))
    assert kube.get("Pod", namespace, "smollm2-0-1")


def test_the_member_that_finds_no_node_is_named(kube: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body, parallelism={"tensor": 2}, resources={"gpu": 1})
    member(kube, namespace, 1)
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SHORT}
    status = {"status": {"conditions": [unplaced]}}
    kube.patch("Pod", namespace, "smollm2-0-1", status, "/status").raise_for_status()
    found = kube.wait_reason(namespace, "smollm2", "Unschedulable")
    assert found["Ready"]["message"] == f"pod smollm2-0-1 cannot be scheduled: {SHORT}"


def test_a_restart_writes_nothing(kube: Any, new_operator: Any, operator: Any, body: Any) -> None:
    namespace = start(kube, body, replicas=2)
    for index in range(2):
        report(kube, namespace, index, ready=2)
    kube.wait_reason(namespace, "smollm2", "AllPodsReady")
    other = new_operator(OCTAVO_LEASE="", OCTAVO_WATCH_NAMESPACES=namespace)
    kube.wait("a reconcile", lambda: other.metric("octavo_operator_reconciles_total") >= 1)
    assert other.writes == 0
    assert other.stop() == 0
