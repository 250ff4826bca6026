"""A burst of requests makes the HPA scale from 1 to 3 pods on their queue, and back."""

from collections.abc import Callable
from typing import Any

import openai
from e2e.autoscaling import UP_AT_ONCE, down_at_once
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import burst
from e2e.waiting import wait_for

CLIENTS = 12
QUICKLY = {**UP_AT_ONCE, **down_at_once(2)}
AUTOSCALING = {"minReplicas": 1, "maxReplicas": 3, "queueDepth": 2, "behavior": QUICKLY}


def test_the_queue_scales_pods_up_and_down(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("scaled", autoscaling=AUTOSCALING, engine={"maxNumSeqs": 1}, drainSeconds=5)

    def child() -> dict[str, Any]:
        return kubectl.get("deployment", "scaled", namespace=namespace)

    assert child()["spec"]["replicas"] == 1
    with burst(openai_client, model, CLIENTS):
        wait_for("3 pods wanted", lambda: child()["spec"]["replicas"] == 3)
        wait_for("3 pods that answer", lambda: child()["status"].get("readyReplicas") == 3, seconds=120)
    wait_for("1 pod", lambda: child()["status"].get("replicas") == 1, seconds=90)
    wait_ready(kubectl, "scaled", namespace)
    model_scaled = kubectl.get("llmdeployment", "scaled", namespace=namespace)
    assert "replicas" not in model_scaled["spec"], "the HPA's choice is not written into the user's spec"
