"""Pods are asked for their load: those of busy models, in turns, and none for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.router.loopback import Call, Router, answers, body_for, resets, running_pods, running_router, until

from octavo_router.endpoints import Address
from octavo_router.loads import LoadWatch
from octavo_router.registry import make_registry
from octavo_router.settings import Settings


def health(load: int) -> Any:
    return answers(json.dumps({"status": "ok", "message": "", "load": load}).encode())


async def asked_for_load(router: Router) -> None:
    """Runs a watch until every pod has been heard of."""
    watching = asyncio.create_task(LoadWatch(router.registry, router.gateway.pool, 0.02).run())
    ready = [e for route in router.registry.routes() for e in route.ready]
    await until(lambda: all(e.heard_at for e in ready), "an answer of each pod")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_what_other_routers_have_running_counts_too() -> None:
    async with running_pods(health(7), health(2), health(5)) as pods, running_router() as router:
        router.serve("m", *pods)
        await router.post(body_for("m"))
        await asked_for_load(router)
        by_port = {e.port: e.load for e in router.registry.resolve("m").ready}
        assert [by_port[pod.port] for pod in pods] == [7, 2, 5]
        before = len(pods[1].calls)
        await router.post(body_for("m"))
        assert len(pods[1].calls) == before + 1


async def test_pods_of_a_model_that_nobody_asks_are_left_alone_and_dumb_ones_are_borne() -> None:
    settings = Settings.load({})
    async with running_pods(answers(b"metrics\n"), resets) as pods, running_router() as router:
        router.serve("m", *pods)
        watch = LoadWatch(router.registry, router.gateway.pool, 0.02)
        for _ in range(3):
            watch.turn(1e9)
        assert router.figures.upstream_opened == 0
        router.registry.resolve("m").requests += 1
        await asked_for_load(router)
        assert [e.load for e in router.registry.resolve("m").ready] == [0, 0]
        assert make_registry(settings, router.figures).routes() == []


async def test_pods_are_asked_in_turns() -> None:
    async with running_router() as router:
        router.serve("m")
        addresses = [Address("127.0.0.1", 1, str(n)) for n in range(40)]
        router.registry.set_addresses("m", addresses)
        route = router.registry.resolve("m")
        route.requests += 1
        watch = LoadWatch(router.registry, router.gateway.pool, 1.0)
        for turn in range(1, 11):
            watch.turn(1e9)
            assert len(watch._open) == 4 * turn
        watch.turn(1e9)
        assert len(watch._open) == 40, "each once"
        watch.turn(2e9)
        router.gateway.pool.close()


async def test_a_pod_that_does_not_answer_is_let_go() -> None:
    async def behave(call: Call) -> None:
        await call.reader.read()

    async with running_pods(behave) as (pod,), running_router() as router:
        router.serve("m", pod)
        route = router.registry.resolve("m")
        route.requests += 1
        watch = LoadWatch(router.registry, router.gateway.pool, 1.0)
        watch.turn(1e9)
        await until(lambda: len(pod.calls) == 1, "the question")
        route.requests += 1
        watch.turn(1e9 + 2)
        await until(lambda: pod.closed == 1, "the end of its connection")
        assert route.ready[0].heard_at > 0
