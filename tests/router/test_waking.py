"""Requests for a model that sleeps: held, sent when a pod is there, and refused when none comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from tests.router.loopback import (
    Router,
    answers,
    body_for,
    request_bytes,
    running_pods,
    running_router,
    until,
)

from octavo_router import waking as waking_module
from octavo_router.kubeconfig import Access
from octavo_router.waking import waking

KEY = "default/m"


@dataclass
class ApiServer:
    """Takes status patches, or refuses as many as told."""

    words: list[str] = field(default_factory=list)
    refusals: int = 0
    refused: int = 0

    async def patch(self, request: web.Request) -> web.Response:
        assert request.path.endswith("/namespaces/default/llmdeployments/m/status")
        assert request.content_type == "application/merge-patch+json"
        if self.refusals:
            self.refusals -= 1
            self.refused += 1
            return web.Response(status=500)
        self.words.append((await request.json())["status"]["wakeRequested"])
        return web.json_response({})


@contextlib.asynccontextmanager
async def cluster(
    router: Router, refusals: int = 0, token: Callable[[], str | None] = lambda: None
) -> AsyncIterator[ApiServer]:
    """The router wakes models through this server."""
    api = ApiServer(refusals=refusals)
    app = web.Application()
    app.router.add_patch("/{path:.*}", api.patch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    try:
        async with waking(Access(f"http://127.0.0.1:{port}", False, token), router.registry):
            yield api
    finally:
        await runner.cleanup()


def asleep(router: Router, **fields: Any) -> None:
    router.serve(KEY, sleeps=True, **fields)


async def test_a_request_waits_for_the_pod_that_it_wakes() -> None:
    async with running_pods(answers(b"hello")) as pods, running_router() as router, cluster(router) as api:
        asleep(router)
        asking = [asyncio.create_task(router.post(body_for(KEY))) for _ in range(3)]
        await until(lambda: router.registry.resolve(KEY).holds == 3, "three held requests")
        await until(lambda: len(api.words) == 1, "one call for all three")
        assert router.figures.of(KEY).held == 3
        router.registry.set_addresses(KEY, [pods[0].address])
        assert [(r.status, r.body) for r in await asyncio.gather(*asking)] == [(200, b"hello")] * 3
        assert router.figures.of(KEY).held == 0


async def test_nothing_waits_for_a_model_that_cannot_be_started() -> None:
    async with running_router() as router, cluster(router):
        asleep(router)
        waiting = asyncio.create_task(router.post(body_for(KEY)))
        await until(lambda: router.registry.resolve(KEY).holds == 1, "a held request")
        asleep(router, stalled="no access to hf://a/b")
        for answer in (await waiting, await router.post(body_for(KEY))):
            assert answer.status == 503 and answer.headers["retry-after"]
            assert f"'{KEY}' cannot be started: no access to hf://a/b" in answer.body.decode()
        assert router.figures.of(KEY).held == 0


async def test_a_call_that_fails_is_made_again() -> None:
    async with running_router() as router, cluster(router, refusals=1) as api:
        asleep(router)
        client = await router.client()
        client.send(request_bytes(body_for(KEY)))
        await until(lambda: len(api.words) == 1, "the second try")
        client.leave()
        await until(lambda: router.registry.resolve(KEY).holds == 0, "the end of a request whose client left")


def asks() -> bool:
    """Whether a model is still asked for."""
    return any(task.get_name() == f"waking {KEY}" for task in asyncio.all_tasks())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between calls are as short as can be."""
    for pause in ("_AGAIN_S", "_RETRY_S", "_LONGEST_RETRY_S"):
        monkeypatch.setattr(waking_module, pause, 0.01)


@pytest.mark.usefixtures("hasty")
async def test_calls_that_fail_end_with_the_last_request_that_waits_and_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_router() as router, cluster(router, refusals=10**6) as api:
        asleep(router)
        client = await router.client()
        client.send(request_bytes(body_for(KEY)))
        await until(lambda: api.refused > 10, "calls as long as a request waits")
        assert asks()
        client.leave()
        await until(lambda: not asks(), "the end of the calls")
    assert len([r for r in caplog.records if "cannot be woken yet" in r.message]) == 1


@pytest.mark.usefixtures("hasty")
async def test_a_request_that_a_fallback_has_answered_is_worth_a_few_calls() -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("default/other", *pods)
        asleep(router, fallback="default/other")
        async with cluster(router, refusals=2) as api:
            await router.post(body_for(KEY))
            await until(lambda: len(api.words) == 1, "the call that succeeds")
        async with cluster(router, refusals=10**6) as api:
            await router.post(body_for(KEY))
            await until(lambda: api.refused > 0 and not asks(), "the end of calls in vain")
            assert api.refused == 5


@pytest.mark.usefixtures("hasty")
async def test_calls_end_when_the_model_is_deleted() -> None:
    async with running_router() as router, cluster(router, refusals=10**6) as api:
        asleep(router)
        asking = asyncio.create_task(router.post(body_for(KEY)))
        await until(lambda: api.refused > 0, "a call in vain")
        router.registry.set_deployments({})
        await until(lambda: not asks(), "the end of the calls")
        assert (await asking).status == 503


@pytest.mark.usefixtures("hasty")
async def test_a_token_that_cannot_be_read_for_a_while_ends_nothing() -> None:
    reads = 0

    def token() -> str | None:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise PermissionError("the token is being written")
        return b"\xff".decode() if reads == 2 else "secret"

    async with running_router() as router, cluster(router, token=token) as api:
        asleep(router)
        client = await router.client()
        client.send(request_bytes(body_for(KEY)))
        await until(lambda: bool(api.words), "the call once it can be read")


async def test_no_more_than_so_many_are_held_and_not_longer_than_so_long() -> None:
    async with running_router(hold_requests=1, hold_timeout=0.5) as router, cluster(router):
        asleep(router)
        first = asyncio.create_task(router.post(body_for(KEY)))
        await until(lambda: router.registry.resolve(KEY).holds == 1, "a held request")
        second = await router.post(body_for(KEY))
        assert (second.status, second.headers["retry-after"]) == (503, "5")
        assert "is starting, and 1 requests wait for it already" in second.error
        late = await first
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert "has not started in 0.5 seconds" in late.error


async def test_a_model_that_is_deleted_meanwhile_answers_so() -> None:
    async with running_router() as router, cluster(router):
        asleep(router)
        asking = asyncio.create_task(router.post(body_for(KEY)))
        await until(lambda: router.registry.resolve(KEY).holds == 1, "a held request")
        router.registry.set_deployments({})
        assert (await asking).status == 503


async def test_a_fallback_answers_while_the_model_wakes() -> None:
    async with running_pods(answers(b"other")) as pods, running_router() as router, cluster(router) as api:
        router.serve("default/other", *pods)
        asleep(router, fallback="default/other")
        assert (await router.post(body_for(KEY))).body == b"other"
        await until(lambda: len(api.words) == 1, "the call")


async def test_a_fallback_that_sleeps_is_woken_and_answers_under_its_own_name() -> None:
    async with running_pods(answers(b"other")) as pods, running_router() as router, cluster(router) as api:
        asleep(router)
        router.serve("default/first", fallback=KEY)
        asking = asyncio.create_task(router.post(body_for("default/first")))
        await until(lambda: router.registry.resolve(KEY).holds == 1, "a held request")
        await until(lambda: len(api.words) == 1, "the call")
        router.registry.set_addresses(KEY, [pods[0].address])
        assert (await asking).body == b"other"
        assert json.loads(pods[0].calls[0].body)["model"] == KEY


async def test_a_model_that_does_not_sleep_is_not_held() -> None:
    async with running_router() as router, cluster(router) as api:
        router.serve(KEY)
        assert (await router.post(body_for(KEY))).status == 503
        assert api.words == []
