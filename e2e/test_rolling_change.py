"""A changed spec replaces the pods while streams and requests go on."""

import json
import time
from collections.abc import Callable

import openai
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import open_stream, steady_traffic, tokens_in
from e2e.waiting import wait_for

LONGER = 1.5  # a stream's length, in starts of a pod: it outlives the start of another one


def test_nothing_fails_while_pods_are_replaced(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    started = time.monotonic()
    model = deploy("rolled")
    tokens = tokens_in(LONGER * (time.monotonic() - started), openai_client, model)

    def pods() -> dict[str, bool]:
        """Whether each pod is on its way out."""
        found = kubectl.items("pods", "-l", "octavo.dev/deployment=rolled", namespace=namespace)
        return {pod["metadata"]["name"]: "deletionTimestamp" in pod["metadata"] for pod in found}

    (old,) = pods()
    with steady_traffic(openai_client, model), open_stream(openai_client, model, tokens) as stream:
        patch = json.dumps({"spec": {"engine": {"maxNumSeqs": 16}}})
        kubectl("patch", "llmdeployment", "rolled", "-n", namespace, "--type=merge", "-p", patch)
        wait_ready(kubectl, "rolled", namespace)
        wait_for("the old pod on its way out", lambda: pods().get(old, True))
        assert not stream.over, f"the stream was to outlive the change: it had {tokens} tokens"
    wait_for("only a new pod", lambda: list(pods().values()) == [False] and old not in pods())
