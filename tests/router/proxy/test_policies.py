"""Policies, shares, fallbacks and retries, between clients and pods on loopback."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.router.loopback import (
    Call,
    Pod,
    answers,
    body_for,
    resets,
    running_pods,
    running_router,
    until,
)

TURN = "Tell me more about the third of these, please. " * 20


def chat(number: int, turns: int) -> bytes:
    """The conversation of a client after so many turns."""
    messages = [{"role": "system", "content": "Be helpful. " * 50}]
    for turn in range(turns):
        messages += [{"role": "user", "content": f"{number} {turn}: {TURN}"}]
        messages += [{"role": "assistant", "content": f"Gladly: {TURN}"}]
    return body_for("m", messages=messages)


def names_in(pods: list[Pod]) -> list[set[str]]:
    """Which conversations each pod has seen."""
    return [{json.loads(c.body)["messages"][1]["content"].split()[0] for c in pod.calls} for pod in pods]


async def test_with_prefix_each_conversation_stays_with_one_pod_and_pods_share_them() -> None:
    async with running_pods(*[answers()] * 4) as pods, running_router(policy="prefix") as router:
        router.serve("m", *pods)
        for turns in range(1, 5):
            for number in range(16):
                assert (await router.post(chat(number, turns))).status == 200
    seen = names_in(pods)
    assert sum(map(len, seen)) == 16, "no conversation went to a second pod"
    assert sum(map(bool, seen)) >= 3, "which pods is a matter of their ports"


@pytest.mark.parametrize(("policy", "spread"), [("round-robin", [3, 3, 3]), ("session", [9, 0, 0])])
async def test_the_deployments_own_policy_counts(policy: str, spread: list[int]) -> None:
    async with running_pods(*[answers()] * 3) as pods, running_router() as router:
        router.serve("m", *pods, policy=policy)
        for number in range(9):
            await router.post(chat(number, 1), headers="X-Session-Id: ada\r\n")
    assert sorted((len(pod.calls) for pod in pods), reverse=True) == spread


async def test_a_fallback_gets_the_request_under_its_own_name() -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", fallback="small")
        router.serve("small", *pods)
        response = await router.post(body_for("m", temperature=1.5))
        assert response.status == 200
        assert json.loads(pods[0].calls[0].body) == {"model": "small", "temperature": 1.5}
        await until(lambda: router.figures.buffered_bytes == 0, "the body's release")


async def test_a_circle_of_fallbacks_is_told_to_the_client() -> None:
    async with running_router() as router:
        router.serve("a", fallback="b")
        router.serve("b", fallback="a")
        response = await router.post(body_for("a"))
    assert response.status == 503
    assert "go round in a circle (a -> b -> a)" in response.error


async def test_retries_end_with_the_budget() -> None:
    async with (
        running_pods(*[resets] * 4) as pods,
        running_router(retry_burst=2, retry_ratio=0, ejection=0) as router,
    ):
        router.serve("m", *pods)
        assert (await router.post(body_for("m"))).status == 503
        assert router.figures.retries == 2
        assert (await router.post(body_for("m"))).status == 503
        assert router.figures.retries <= 3


async def test_a_pod_that_answers_500_again_and_again_is_set_aside_and_comes_back() -> None:
    broken = True

    async def behave(call: Call) -> None:
        await answers(status=b"500 Internal Server Error" if broken else b"200 OK")(call)

    async with (
        running_pods(behave, answers()) as pods,
        running_router(policy="round-robin", ejection=0.2) as router,
    ):
        router.serve("m", *pods)
        statuses = [(await router.post(body_for("m"))).status for _ in range(20)]
        assert statuses.count(500) == 5
        assert router.figures.ejections == 1
        broken = False
        (bad,) = [e for e in router.registry.resolve("m").ready if e.port == pods[0].port]
        end = asyncio.get_running_loop().time() + 5
        while not bad.breaker.closed:
            assert (await router.post(body_for("m"))).status == 200
            assert asyncio.get_running_loop().time() < end
    assert len(pods[0].calls) > 5
