"""A deleted model takes all its children along."""

from collections.abc import Callable

from e2e.kubectl import Kubectl
from e2e.waiting import wait_for

CHILDREN = ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "horizontalpodautoscalers")
DESCENDANTS = ("replicasets", "pods", "endpointslices")
AUTOSCALING = {"minReplicas": 1, "maxReplicas": 2, "queueDepth": 4}


def test_nothing_of_a_deleted_model_is_left(
    deploy: Callable[..., str], kubectl: Kubectl, namespace: str
) -> None:
    deploy("deleted", ready=False, autoscaling=AUTOSCALING)

    def found(kinds: tuple[str, ...]) -> set[str]:
        items = kubectl.items(",".join(kinds), "-l", "octavo.dev/deployment=deleted", namespace=namespace)
        return {item["kind"] for item in items}

    wait_for("all children", lambda: len(found(CHILDREN)) == len(CHILDREN))
    wait_for("what the children make", lambda: len(found(DESCENDANTS)) == len(DESCENDANTS))
    kubectl("delete", "llmdeployment", "deleted", "-n", namespace, "--timeout=10s")
    wait_for("nothing left", lambda: not found(CHILDREN + DESCENDANTS))
