"""Many clients and pods at once, each behaving by chance: nothing leaks, and no answer goes astray."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Call,
    Router,
    answers,
    body_for,
    request_bytes,
    resets,
    running_pods,
    running_router,
    until,
)


async def streams(call: Call) -> None:
    await call.send(STREAM_HEAD)
    for _ in range(3):
        await call.event(call.body)
    await call.send(b"0\r\n\r\n")


async def cuts(call: Call) -> None:
    await call.send(STREAM_HEAD)
    await call.event(call.body)
    call.reset()


async def echoes(call: Call) -> None:
    await answers(call.body)(call)


async def refuses(call: Call) -> None:
    await answers(b"", b"503 Service Unavailable")(call)


async def one_client(router: Router, chance: random.Random, number: int) -> None:
    """Asks a few times on one connection; may leave at any moment."""
    client = await router.client()
    for turn in range(chance.randint(1, 5)):
        body = body_for("m", n=[number, turn], pad="x" * chance.choice([0, 0, 200_000]))
        client.send(request_bytes(body))
        if chance.random() < 0.2:
            client.leave()
            return
        response = await client.response()
        if response.status == 200 and response.complete:
            assert response.body in (body, body * 3), "the answer to another request"
        if not response.complete:
            assert response.body.startswith(body)
            return
        assert response.status in (200, 503)
    client.leave()


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_leaks_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)

    async def by_chance(call: Call) -> None:
        await chance.choice([streams, echoes, echoes, echoes, cuts, resets, refuses])(call)

    async with running_pods(*[by_chance] * 5) as pods, running_router(ejection=0.01) as router:
        router.serve("m", *pods)
        await asyncio.gather(*(one_client(router, chance, number) for number in range(40)))
        await until(lambda: router.figures.client_connections == 0, "the clients' connections to end")
        (route,) = router.registry.routes()
        assert route.figures.in_flight == 0
        assert [pod.in_flight for pod in route.ready] == [0] * 5
        assert router.figures.buffered_bytes == 0
        for pod in route.ready:
            router.gateway.pool.withdraw(pod)
        await until(lambda: router.figures.upstream_connections == 0, "the pods' connections to end")
