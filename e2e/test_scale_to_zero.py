"""A model without requests goes to zero pods; the next request waits for a pod and is answered."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from e2e.conftest import conditions
from e2e.figures import keep
from e2e.installation import NAMESPACE
from e2e.kubectl import Kubectl
from e2e.traffic import QUESTION, ask
from e2e.waiting import wait_for

REPLICAS = '{.spec.replicas}{"\\n"}'
WAKE_SECONDS = 5  # 0.5 is the aim, on cores that have nothing else to do
CONDITIONS = (
    "one request to a model without pods, until a watch shows its Deployment with one replica; local cluster"
)
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
    restart(kubectl)
    assert child()["spec"]["replicas"] == 0, "sleep outlives the operator"
    with kubectl.watched("deployment", "sleeper", namespace=namespace, show=REPLICAS) as seen:
        wait_for("the watch", lambda: seen)
        asked = time.time()
        answer = openai_client.chat.completions.create(model=model, messages=QUESTION, max_tokens=8)
    assert answer.choices[0].message.content
    assert child()["spec"]["replicas"] == 1
    woken = next(when for when, replicas in seen if replicas == "1") - asked
    print(f"\none replica was asked for after {woken * 1000:.0f} ms", flush=True)
    if os.environ.get("OCTAVO_KEEP_FIGURES"):
        keep(
            "operator",
            "wake_to_replica_patch_ms",
            round(woken * 1000, 1),
            "ms",
            f"{CONDITIONS}, load {os.getloadavg()[0]:.1f}",
        )
    assert woken < WAKE_SECONDS
    model_now = kubectl.get("llmdeployment", "sleeper", namespace=namespace)
    assert model_now["metadata"]["generation"] == generation, "nothing is written into the user's spec"
    wait_for("no pods again", asleep, seconds=90)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, openai_client, model)
        wait_for("the wish for a pod", lambda: child()["spec"]["replicas"] or asking.done())
        assert not asking.done(), "the request is held"
        restart(kubectl)
        assert asking.result(), "a router that leaves finishes what it holds"


def restart(kubectl: Kubectl) -> None:
    """Replace all replicas of router and operator."""
    for name in ("deployment/octavo-router", "deployment/octavo-operator"):
        kubectl("rollout", "restart", name, "-n", NAMESPACE)
        kubectl("rollout", "status", name, "-n", NAMESPACE, "--timeout=120s")
