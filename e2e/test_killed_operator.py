"""The leading operator is killed: serving goes on, and the next one writes nothing that is not needed."""

import json
from collections.abc import Callable

import openai
from e2e.installation import NAMESPACE
from e2e.kubectl import Kubectl
from e2e.traffic import steady_traffic
from e2e.waiting import wait_for

CHILDREN = "deployments,services,serviceaccounts,poddisruptionbudgets"


def test_serving_goes_on_and_the_next_operator_changes_nothing(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("served")
    deploy("witness", replicas=0)

    def versions() -> dict[str, str]:
        """The resource version of the model and of each of its children."""
        children = kubectl.items(CHILDREN, "-l", "octavo.dev/deployment=served", namespace=namespace)
        found = [kubectl.get("llmdeployment", "served", namespace=namespace), *children]
        return {item["kind"]: item["metadata"]["resourceVersion"] for item in found}

    def leader() -> str:
        """The name of the pod that holds the Lease."""
        return str(kubectl.get("lease", "octavo-operator", namespace=NAMESPACE)["spec"]["holderIdentity"])

    before, killed = versions(), leader()
    with steady_traffic(openai_client, model) as traffic:
        kubectl("delete", "pod", killed, "-n", NAMESPACE, "--grace-period=0", "--force")
        answered = traffic.answers
        wait_for("another leader", lambda: leader() not in ("", killed))
        wait_for("an answer after the change", lambda: traffic.answers > answered)
    follow(kubectl, namespace)
    assert versions() == before


def follow(kubectl: Kubectl, namespace: str) -> None:
    """Wait until the new leader has acted on a change, and so has seen all that there is."""
    patch = json.dumps({"spec": {"drainSeconds": 33}})
    kubectl("patch", "llmdeployment", "witness", "-n", namespace, "--type=merge", "-p", patch)

    def acted() -> bool:
        status = kubectl.get("llmdeployment", "witness", namespace=namespace)
        return bool(status["metadata"]["generation"] == status["status"]["observedGeneration"])

    wait_for("the new operator's act", acted)
