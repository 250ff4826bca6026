"""Which pods a request is given to, and when to another; alone, and between a client and pods."""

from __future__ import annotations

import asyncio

import pytest
from tests.router.loopback import (
    Behaviour,
    Call,
    Pod,
    answers,
    body_for,
    resets,
    running_pods,
    running_router,
    sends,
    unanswering_port,
    until,
)

from octavo_router.breaker import USUAL_LIMITS, Limits
from octavo_router.endpoints import Address, Endpoint, Route
from octavo_router.metrics import Figures
from octavo_router.policies import LeastLoad
from octavo_router.prompt import Asked, Features
from octavo_router.proxy.tries import Tries
from octavo_router.routing import Deployment

M = body_for("m")


FAILURES: dict[str, Behaviour] = {
    "that resets before the head": resets,
    "that closes before the head": sends(b"", then_close=True),
    "that resets within the head": sends(b"HTTP/1.1 200 OK\r\nContent-", then_close=True),
    "that is draining": answers(b"{}", b"503 Service Unavailable", b"Retry-After: 1\r\n"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_another_pod_answers_for_one(failure: Behaviour) -> None:
    async with running_pods(failure, answers(b"good")) as (bad, good), running_router() as router:
        router.serve("m", bad, good)
        responses = [await router.post(M) for _ in range(4)]
        assert [r.body for r in responses] == [b"good"] * 4
        assert good.calls[0].body == M
        assert len(bad.calls) == 1, "a pod that failed is set aside"
        assert router.figures.ejections == router.figures.retries == 1


async def test_with_half_the_pods_dead_no_request_fails() -> None:
    async with running_pods(*[answers(b"good")] * 8) as pods, running_router() as router:
        router.serve("m", *pods)
        for pod in pods[::2]:
            await pod.stop()
        responses = await asyncio.gather(*(router.post(M) for _ in range(40)))
    assert [r.status for r in responses] == [200] * 40


async def test_a_pod_that_cannot_be_connected_to_in_time_is_passed_over() -> None:
    async with running_pods(answers(b"good")) as pods, running_router(connect_timeout=0.1) as router:
        with unanswering_port() as port:
            router.serve("m", *pods, Pod(port=port))
            responses = [await router.post(M) for _ in range(2)]
    assert [r.body for r in responses] == [b"good"] * 2


async def test_when_no_pod_can_be_reached_the_answer_says_so() -> None:
    async with running_pods(resets, resets) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert "'m'" in response.error
    assert "2 tried" in response.error


async def test_no_more_pods_are_tried_than_allowed() -> None:
    async with running_pods(*[resets] * 5) as pods, running_router(max_tries=3) as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert response.status == 503
    assert sum(len(pod.calls) for pod in pods) == 3


async def test_the_only_pod_s_own_503_is_passed_on() -> None:
    refusal = answers(b'{"error": "draining"}', b"503 Service Unavailable", b"Retry-After: 9\r\n")
    async with running_pods(refusal) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.status, response.body) == (503, b'{"error": "draining"}')
    assert response.headers["retry-after"] == "9"


async def test_other_errors_of_a_pod_are_passed_on_and_not_retried() -> None:
    async with (
        running_pods(*[answers(b"full", b"429 Too Many Requests")] * 2) as pods,
        running_router() as router,
    ):
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.status, response.body) == (429, b"full")
    assert router.figures.retries == 0


async def test_the_least_loaded_pod_is_picked() -> None:
    hold = asyncio.Event()

    async def behave(call: Call) -> None:
        await hold.wait()
        await answers()(call)

    async with running_pods(behave, behave, behave) as pods, running_router() as router:
        router.serve("m", *pods)
        requests = [asyncio.create_task(router.post(M)) for _ in range(9)]
        await until(lambda: sum(len(p.calls) for p in pods) == 9, "nine requests")
        assert [len(p.calls) for p in pods] == [3, 3, 3]
        hold.set()
        assert [r.status for r in await asyncio.gather(*requests)] == [200] * 9


def found(count: int, limits: Limits = USUAL_LIMITS, most: int = 6) -> Tries:
    """A request of a model with so many pods."""
    figures = Figures()
    route = Route(Deployment("ns/m", "m"), figures, LeastLoad(), limits)
    route.keep(Endpoint(Address(f"10.0.0.{n}", 8000), limits) for n in range(count))
    return Tries(route, Features(Asked("m")), figures, most)


def test_each_pod_is_tried_once_and_counted_while_it_has_the_request() -> None:
    tries = found(3)
    had: list[Endpoint] = []
    while (endpoint := tries.next(now=1)) is not None:
        assert (endpoint.in_flight, tries.endpoint, tries.count) == (1, endpoint, len(had) + 1)
        had.append(endpoint)
        tries.fail(now=1)
    assert set(had) == set(tries.route.ready)
    assert [e.in_flight for e in had] == [0, 0, 0]
    assert "3 tried" in str(tries.why_none())


def test_a_retry_needs_a_pod_that_is_left_a_try_and_the_budget() -> None:
    assert found(2).next(now=1) is not None
    for tries, another in (
        (found(2), True),
        (found(1), False),
        (found(2, most=1), False),
        (found(2, Limits(retry_ratio=0, retry_burst=0)), False),
    ):
        tries.next(now=1)
        tries.fail(now=1)
        assert (tries.next(now=1) is not None) is another


def test_there_is_another_only_beside_the_one_that_has_the_request() -> None:
    for tries, another in ((found(2), True), (found(1), False), (found(2, most=1), False)):
        tries.next(now=1)
        assert tries.may_go_on(now=1) is another


def test_five_faults_in_a_row_set_a_pod_aside() -> None:
    tries = found(2)
    first = tries.next(now=1)
    assert first is not None
    for _ in range(5):
        tries.answered(502, now=1)
    assert not first.breaker.admits(now=1)
    tries.answered(200, now=1)
    assert first.breaker.admits(now=1)


def test_without_any_pod_the_client_is_told_so() -> None:
    tries = found(0)
    assert tries.next(now=1) is None
    assert "has no ready pod" in str(tries.why_none())
    tries.start_anew()
    assert tries.leave() is None
