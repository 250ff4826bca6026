"""API keys, the access log and trace contexts, between clients and pods on loopback."""

from __future__ import annotations

import asyncio
import json
import os
from hashlib import sha256
from typing import Any

import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Behaviour,
    Call,
    Router,
    answers,
    body_for,
    request_bytes,
    running_pods,
    running_router,
    until,
)

from octavo_router.access_log import AccessLog
from octavo_router.keys import Keyring, KeySpec
from octavo_router.metrics import Figures
from octavo_router.routing import Deployment
from octavo_router.trace import trace_of

ADA, BOB = "sk-ada-0123456789", "sk-bob-0123456789"
USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":3}'
USED = answers(b'{"choices":[],%b}' % USAGE)


def made_keyring(limit: int | None = None) -> Keyring:
    """Ada may ask for the models of namespace a, Bob for those of b."""
    keyring = Keyring(Figures())
    for namespace, key in (("a", ADA), ("b", BOB)):
        spec = KeySpec(f"{namespace}/s/k", namespace, sha256(key.encode()).digest(), limit)
        keyring.replace({f"{namespace}/s": [spec]})
    return keyring


def serve(router: Router, *pods: Any) -> None:
    """A model m in each namespace: that of a is the older one; and one that only b has."""
    models = [("a/m", "m", "1"), ("b/m", "m", "2"), ("b/only", "only", "3")]
    router.registry.set_deployments(
        {k: Deployment(k, s, (), f"2026-01-0{d}T00:00:00Z", k[0]) for k, s, d in models}
    )
    for (key, *_), pod in zip(models, pods, strict=False):
        router.registry.set_addresses(key, [pod.address])


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


@pytest.mark.parametrize("headers", ["", bearer("sk-eve-0123456789"), f"Authorization: {ADA}\r\n"])
async def test_without_a_known_key_nothing_is_answered(headers: str) -> None:
    async with running_pods(USED) as pods, running_router(keyring=made_keyring()) as router:
        serve(router, *pods)
        response = await router.post(body_for("m"), headers=headers)
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", headers, method="GET"))
        models = await client.response("GET")
    assert response.status == models.status == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert not pods[0].calls


async def test_a_key_opens_the_models_of_its_namespace_and_no_other() -> None:
    async with running_pods(USED, USED, USED) as pods, running_router(keyring=made_keyring()) as router:
        serve(router, *pods)
        await router.post(body_for("m"), headers=bearer(ADA))
        await router.post(body_for("m"), headers=bearer(BOB))
        assert [len(pod.calls) for pod in pods] == [1, 1, 0], "the name means each namespace's own model"
        for model in ("only", "b/m", "b/only"):
            refused = await router.post(body_for(model), headers=bearer(ADA))
            assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
            assert "the known ones: m." in refused.error
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", bearer(BOB), method="GET"))
        listed = (await client.response("GET")).json()["data"]
        assert [entry["id"] for entry in listed] == ["m", "only"]
    assert pods[0].calls[0].header("authorization") is None, "no pod sees the key"


def streams(*events: bytes) -> Behaviour:
    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        for event in events:
            await call.event(event)
        await call.send(b"0\r\n\r\n")

    return behave


async def test_tokens_are_counted_per_key_and_a_limit_is_kept() -> None:
    keyring = made_keyring(limit=20)
    async with running_pods(USED) as pods, running_router(keyring=keyring) as router:
        serve(router, *pods)
        statuses = [(await router.post(body_for("m"), headers=bearer(ADA))).status for _ in range(3)]
        refused = await router.post(body_for("m"), headers=bearer(ADA))
    assert statuses[:2] == [200, 200]
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "20 tokens a minute" in refused.error
    figures = keyring.find(f"Bearer {ADA}".encode()).figures
    assert figures.prompt_tokens == 7 * statuses.count(200)
    assert figures.completion_tokens == 3 * statuses.count(200)
    assert figures.refused >= 1


async def test_the_usage_of_a_stream_is_counted_and_without_one_it_is_guessed() -> None:
    keyring = made_keyring()
    told = streams(b"data: {}\n\n", b'data: {"choices":[],%b}\n\n' % USAGE, b"data: [DONE]\n\n")
    silent = streams(*[b"data: {}\n\n"] * 5)
    async with running_pods(told, silent) as pods, running_router(keyring=keyring) as router:
        serve(router, *pods)
        body = body_for("m", stream=True)
        for key in (ADA, BOB):
            assert (await router.post(body, headers=bearer(key))).complete
    ada, bob = (keyring.find(f"Bearer {key}".encode()).figures for key in (ADA, BOB))
    assert (ada.prompt_tokens, ada.completion_tokens, ada.guessed) == (7, 3, 0)
    assert (bob.prompt_tokens, bob.completion_tokens, bob.guessed) == (len(body) // 4, 5, 1)


async def test_a_limit_is_kept_by_a_guess_when_the_usage_is_not_at_the_end_of_a_response() -> None:
    keyring = made_keyring(limit=1000)
    whole = b'{%b,"prompt_logprobs":"%b"}' % (USAGE, b"x" * 1_000_000)  # many reads
    async with running_pods(answers(whole)) as pods, running_router(keyring=keyring) as router:
        serve(router, *pods)
        body = body_for("m")
        assert (await router.post(body, headers=bearer(ADA))).status == 200
        assert (await router.post(body, headers=bearer(ADA))).status == 429
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", bearer(ADA), method="GET"))
        assert (await client.response("GET")).status == 200
    ada = keyring.find(f"Bearer {ADA}".encode()).figures
    assert (ada.prompt_tokens, ada.completion_tokens) == (len(body) // 4, len(whole) // 4)
    assert ada.guessed == 1, "the list of models takes no tokens"


async def test_each_request_has_a_line_in_the_access_log_without_its_words() -> None:
    reading, writing = os.pipe()
    try:
        async with (
            running_pods(answers(b'{"text":"SECRET",%b}' % USAGE)) as pods,
            running_router(keyring=made_keyring()) as router,
        ):
            router.gateway.access_log = AccessLog(1, writing)
            router.gateway.watchful = True
            serve(router, *pods)
            body = body_for("m", messages=[{"role": "user", "content": "SECRET"}])
            trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
            await router.post(body, headers=bearer(ADA) + trace + "X-Request-Id: mine\r\n")
            await router.post(body, "/v1/completions?key=SECRET")
            await router.gateway.access_log.close()
        text = os.read(reading, 1 << 16).decode()
    finally:
        os.close(reading)
        os.close(writing)
    served, refused = map(json.loads, text.splitlines())
    assert "SECRET" not in text
    assert ADA not in text
    assert served | {"time": 0, "duration_ms": 0, "first_byte_ms": 0} == {
        "time": 0,
        "id": "mine",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 0,
        "first_byte_ms": 0,
        "model": "m",
        "deployment": "a/m",
        "pod": f"127.0.0.1:{pods[0].port}",
        "tries": 1,
        "request_bytes": len(body),
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "key": "a/s/k",
        "trace": "0af7651916cd43dd8448eb211c80319c",
    }
    assert 0 < served["first_byte_ms"] <= served["duration_ms"]
    assert (refused["path"], refused["status"]) == ("/v1/completions", 401)


async def test_a_share_of_the_requests_is_logged_evenly() -> None:
    log = AccessLog(0.25)
    assert [log.wants() for _ in range(8)] == [False, False, False, True] * 2


@pytest.mark.parametrize("given", ["", "traceparent: nonsense\r\ntracestate: a=1\r\n"])
async def test_a_trace_is_begun_where_there_is_none(given: str) -> None:
    async with running_pods(answers()) as pods, running_router(trace=True) as router:
        router.serve("m", *pods)
        client = await router.client()
        for _ in range(2):
            assert (await client.post(body_for("m"), headers=given)).status == 200
    headers = [call.header("traceparent") or "" for call in pods[0].calls]
    traces = {trace_of([(b"traceparent", value.encode())]) for value in headers}
    assert len(traces) == 2
    assert None not in traces
    assert {call.header("tracestate") for call in pods[0].calls} == {None}


async def test_a_stream_that_does_not_begin_is_tried_on_another_pod() -> None:
    async def silent(call: Call) -> None:
        await call.reader.read()

    good = streams(b"data: [DONE]\n\n")
    async with running_pods(silent, good) as pods, running_router(first_byte_timeout=0.2) as router:
        router.serve("m", *pods)
        for _ in range(2):
            assert (await router.post(body_for("m", stream=True))).body == b"data: [DONE]\n\n"
        await until(lambda: pods[0].closed == pods[0].opened, "the silent pod's release")
    assert len(pods[1].calls) == 2


async def test_a_request_that_does_not_stream_may_take_its_time() -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.7)
        await answers(b"done")(call)

    async with (
        running_pods(slow, slow) as pods,
        running_router(first_byte_timeout=0.2, chunk_timeout=0.2) as router,
    ):
        router.serve("m", *pods)
        assert (await router.post(body_for("m"))).body == b"done"
    assert sum(len(pod.calls) for pod in pods) == 1


async def test_a_stream_that_stalls_is_cut_with_an_error_event() -> None:
    async def stalls(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await call.reader.read()

    async with running_pods(stalls) as pods, running_router(chunk_timeout=0.2) as router:
        router.serve("m", *pods)
        response = await router.post(body_for("m", stream=True))
    assert b"has sent nothing for 0.2 seconds" in response.body
    assert not response.complete
