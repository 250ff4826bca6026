"""Replicas that are groups of pods are scaled, changed, drained and put to sleep as one each.

All cases share one model of two pods a group. Its engines are whole but for the model and for Ray, so that
two cores start groups in seconds; `test_groups.py` has a group with both.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from e2e.autoscaling import UP_AT_ONCE, down_at_once
from e2e.conftest import conditions, model_of, namespace_of, wait_ready
from e2e.kubectl import Kubectl
from e2e.paced_model import PACED_GROUP
from e2e.traffic import ask, burst, open_stream, steady_traffic
from e2e.waiting import wait_for

NAME = "many"
PODS = f"octavo.dev/deployment={NAME}"
UIDS = '{.metadata.uid}{"\\n"}'
SIZE = 2  # pods of a group
STREAM_TOKENS = 120  # 30 s of the paced runner: longer than a group takes to start, shorter than a drain
APART = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "ScheduleAnyway",
    "matchLabelKeys": ["octavo.dev/group"],
}
QUICKLY = {**UP_AT_ONCE, **down_at_once(1)}
BY_LOAD = {"minReplicas": 1, "maxReplicas": 2, "concurrency": 4, "behavior": QUICKLY}
TO_ZERO = {"minReplicas": 0, "maxReplicas": 2, "concurrency": 4, "idleSeconds": 5, "behavior": QUICKLY}


@dataclass(frozen=True)
class Groups:
    """A model whose replicas are groups."""

    kubectl: Kubectl
    namespace: str

    @property
    def model(self) -> str:
        """Its name for requests."""
        return f"{self.namespace}/{NAME}"

    def change(self, **spec: object) -> None:
        """Change the spec; None removes a field."""
        words = ["patch", "llmdeployment", NAME, "-n", self.namespace, "--type=merge", "-p"]
        self.kubectl(*words, json.dumps({"spec": spec}))

    def wait_ready(self) -> None:
        """Until all that are wanted answer."""
        wait_ready(self.kubectl, NAME, self.namespace)

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods by name that are not on their way out."""
        found = self.kubectl.items("pods", "-l", PODS, namespace=self.namespace)
        return {p["metadata"]["name"]: p for p in found if "deletionTimestamp" not in p["metadata"]}

    def uids(self) -> dict[str, str]:
        """The pods' identities by their names."""
        return {name: pod["metadata"]["uid"] for name, pod in self.pods().items()}

    def nodes(self) -> set[str]:
        """Where pods are, or None for one that has no node yet."""
        return {str(pod["spec"].get("nodeName")) for pod in self.pods().values()}

    def scale(self) -> int:
        """The number of groups that the HPA sees and writes."""
        return int(self.kubectl.get("groupscale", NAME, namespace=self.namespace)["spec"]["replicas"])

    def listed(self) -> dict[str, str]:
        """What `kubectl get llmd -o wide` shows, by column."""
        head, row = self.kubectl("get", "llmd", NAME, "-n", self.namespace, "-o", "wide").splitlines()
        return dict(zip(head.split()[:4], row.split()[:4], strict=True))

    def repairs(self) -> list[str]:
        """What the operator has told of changes that it undid."""
        events = self.kubectl.items("events", "--field-selector=reason=Repaired", namespace=self.namespace)
        return [event["message"] for event in events]

    def resource(self) -> dict[str, Any]:
        """The resource as it is now."""
        return self.kubectl.get("llmdeployment", NAME, namespace=self.namespace)


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl, octavo: str) -> Iterator[str]:
    """One for all cases of this file."""
    with namespace_of(kubectl, "groups") as name:
        yield name


@pytest.fixture(scope="module")
def groups(kubectl: Kubectl, namespace: str) -> Groups:
    """One group, ready."""
    spec = {**PACED_GROUP, "scheduling": {"topologySpreadConstraints": [APART]}}
    kubectl.apply(model_of(NAME, **spec), namespace=namespace)
    wait_ready(kubectl, NAME, namespace)
    return Groups(kubectl, namespace)


def test_the_hpa_scales_groups(groups: Groups, openai_client: openai.OpenAI) -> None:
    groups.change(replicas=None, autoscaling=BY_LOAD)
    groups.wait_ready()
    assert groups.scale() == 1
    with steady_traffic(openai_client, groups.model):
        with burst(openai_client, groups.model, clients=12):
            wait_for("two groups wanted", lambda: groups.scale() == 2)
            wait_for("two groups that answer", lambda: groups.listed()["READY"] == "2/2", seconds=120)
        assert groups.listed()["PODS"] == str(SIZE)
        assert set(groups.pods()) == {f"{NAME}-{group}-{pod}" for group in range(2) for pod in range(SIZE)}
        wait_for("one group", lambda: set(groups.pods()) == {f"{NAME}-0-0", f"{NAME}-0-1"}, seconds=60)
        wait_for("its count", lambda: groups.listed()["READY"] == "1/1")
    assert "replicas" not in groups.resource()["spec"], "the spec is the user's"


def test_a_changed_spec_replaces_a_group_whole_under_its_streams(
    groups: Groups, openai_client: openai.OpenAI
) -> None:
    groups.change(replicas=1, autoscaling=None)
    groups.wait_ready()
    old = groups.uids()

    def of_the_new_spec(pod: dict[str, Any]) -> bool:
        return "--max-num-seqs=255" in pod["spec"]["containers"][0]["args"]

    with steady_traffic(openai_client, groups.model):
        with open_stream(openai_client, groups.model, STREAM_TOKENS) as stream:
            groups.change(engine={"maxNumSeqs": 255})
            wait_for("a surge group", lambda: {f"{NAME}-1-0", f"{NAME}-1-1"} <= set(groups.pods()))
            assert groups.uids().items() >= old.items(), "the old group stays until the new one answers"
            wait_for("the old group to leave", lambda: not set(old.values()) & set(groups.uids().values()))
            assert not stream.over, "the stream was to outlive the change"
        wait_for("the group anew", lambda: set(groups.pods()) == set(old), seconds=120)
        groups.wait_ready()
    assert all(of_the_new_spec(pod) for pod in groups.pods().values())
    assert not set(old.values()) & set(groups.uids().values())
    assert groups.repairs() == [], "what the operator does itself is nobody's mischief"


def test_a_drained_node_moves_groups_one_after_the_other(
    groups: Groups, openai_client: openai.OpenAI, kubectl: Kubectl
) -> None:
    groups.change(replicas=2, autoscaling=None)
    groups.wait_ready()
    old = groups.uids()
    assert len(groups.nodes()) == 2
    node = groups.pods()[f"{NAME}-0-1"]["spec"]["nodeName"]  # of a pod that does not lead
    watched = kubectl.watched("pods", "-l", PODS, namespace=groups.namespace, show=UIDS)
    with watched as seen, steady_traffic(openai_client, groups.model):
        with open_stream(openai_client, groups.model, STREAM_TOKENS):
            kubectl("drain", node, f"--pod-selector={PODS}", "--delete-emptydir-data", "--timeout=240s")
            wait_for("all elsewhere", lambda: len(groups.pods()) == 2 * SIZE and node not in groups.nodes())
        kubectl("uncordon", node)
        groups.wait_ready()
    new = set(groups.uids().values())
    assert not new & set(old.values()), "a group moves with all its pods"
    assert {uid for _, uid in seen} == new | set(old.values()), "each pod is made once"


def test_an_idle_group_sleeps_and_a_request_wakes_it(groups: Groups, openai_client: openai.OpenAI) -> None:
    groups.change(replicas=None, autoscaling=TO_ZERO)
    generation = groups.resource()["metadata"]["generation"]

    def asleep() -> bool:
        return bool(conditions(groups.kubectl, NAME, groups.namespace)["Ready"]["reason"] == "ScaledToZero")

    wait_for("sleep", lambda: asleep() and not groups.pods())
    assert groups.listed()["READY"] == "0/0"
    wait_for("no group", lambda: not groups.kubectl.items("statefulsets", namespace=groups.namespace))
    assert ask(openai_client, groups.model)
    assert groups.listed()["READY"] == "1/1"
    assert groups.resource()["metadata"]["generation"] == generation, (
        "nothing is written into the user's spec"
    )
