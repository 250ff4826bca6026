"""A model without requests goes to zero pods; the next request waits for a pod and is answered."""

from collections.abc import Callable
from typing import Any

import openai
from e2e.conftest import conditions
from e2e.kubectl import Kubectl
from e2e.traffic import QUESTION
from e2e.waiting import wait_for

AUTOSCALING = {"minReplicas": 0, "maxReplicas": 2, "concurrency": 8, "idleSeconds": 5}


def test_an_idle_model_sleeps_and_a_request_wakes_it(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("sleeper", autoscaling=AUTOSCALING, drainSeconds=5)
    generation = kubectl.get("llmdeployment", "sleeper", namespace=namespace)["metadata"]["generation"]

    def asleep() -> bool:
        return bool(conditions(kubectl, "sleeper", namespace)["Ready"]["reason"] == "ScaledToZero")

    def child() -> dict[str, Any]:
        return kubectl.get("deployment", "sleeper", namespace=namespace)

    wait_for("no pods", lambda: asleep() and not child()["status"].get("replicas"), seconds=90)
    kubectl("rollout", "restart", "deployment/octavo-operator", "-n", "octavo-system")
    kubectl("rollout", "status", "deployment/octavo-operator", "-n", "octavo-system", "--timeout=120s")
    assert child()["spec"]["replicas"] == 0, "sleep outlives the operator"
    answer = openai_client.chat.completions.create(model=model, messages=QUESTION, max_tokens=8)
    assert answer.choices[0].message.content
    assert child()["spec"]["replicas"] == 1
    model_now = kubectl.get("llmdeployment", "sleeper", namespace=namespace)
    assert model_now["metadata"]["generation"] == generation, "nothing is written into the user's spec"
    wait_for("no pods again", asleep, seconds=90)
