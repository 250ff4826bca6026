"""The client's side over real sockets: own answers, order, keep-alive, slow and odd clients, drain."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import openai
import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Call,
    answers,
    body_for,
    request_bytes,
    running_pods,
    running_router,
    until,
)

M = body_for("m")

REFUSALS: dict[str, tuple[bytes, int, str]] = {
    "an unknown model": (request_bytes(body_for("x")), 404, "'x'; the known ones: m, n"),
    "a model without a ready pod": (request_bytes(body_for("n")), 503, "'n' has no ready pod"),
    "a body without a model": (request_bytes(b'{"messages": []}'), 400, "`model`"),
    "a model that is no string": (request_bytes(b'{"model": 7}'), 400, "`model`"),
    "a body that is no object": (request_bytes(b"[1]"), 400, "`model`"),
    "a body that is not JSON": (request_bytes(b"model=m"), 400, "not valid JSON"),
    "a body that breaks off behind a field of another shape": (
        request_bytes(b'{"model": "m", "messages": 5, xxx'),
        400,
        "not valid JSON",
    ),
    "a body that is nested too deeply": (request_bytes(b'{"model": "m", "x": ' + b"[" * 9999), 400, "JSON"),
    "a model that is nested too deeply": (request_bytes(b'{"model": ' + b"[" * 9999), 400, "JSON"),
    "an empty body": (request_bytes(b""), 400, "not valid JSON"),
    "a path outside of /v1": (request_bytes(M, "/metrics"), 404, "/metrics"),
    "a path that climbs": (request_bytes(M, "/v1/../metrics"), 404, "/v1/../metrics"),
    "a path that climbs in disguise": (request_bytes(M, "/v1/%2E%2e/metrics"), 404, "/v1/"),
    "another method": (request_bytes(b"", method="GET"), 405, "use POST"),
    "a POST to the list of models": (request_bytes(M, "/v1/models"), 405, "use GET"),
    "an unknown model's card": (request_bytes(b"", "/v1/models/x", method="GET"), 404, "'x'"),
}


@pytest.mark.parametrize(("request_", "status", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_an_openai_error_answers(request_: bytes, status: int, words: str) -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", *pods)
        router.serve("n")
        client = await router.client()
        client.send(request_)
        response = await client.response()
        assert response.status == status
        assert words in response.error
        assert response.headers["x-request-id"]
        assert ("retry-after" in response.headers) == (status == 503)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert router.figures.buffered_bytes == 0
        assert (await client.post(M)).status == 200, "the connection goes on"


async def test_models_are_listed_and_shown() -> None:
    async with running_router() as router:
        router.serve("m")
        router.serve("org/n")
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", method="GET"))
        listed = (await client.response()).json()
        client.send(request_bytes(b"", "/v1/models/org%2Fn", method="GET"))
        shown = (await client.response()).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["m", "org/n"]
    assert shown == listed["data"][1]
    assert shown["object"] == "model"


async def test_head_is_answered_without_a_body() -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", method="HEAD"))
        assert (await client.response("HEAD")).status == 405
        assert (await client.post(M)).status == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(call: Call) -> None:
        await answers(call.body)(call)

    bodies = [body_for("m" if n % 3 else "x", n=n) for n in range(30)]
    async with running_pods(echo, echo) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(b"".join(request_bytes(body) for body in bodies))
        responses = [await client.response() for _ in bodies]
    assert [r.body if r.status == 200 else r.status for r in responses] == [
        body if n % 3 else 404 for n, body in enumerate(bodies)
    ]


async def test_thousands_of_pipelined_requests_neither_recurse_nor_get_lost() -> None:
    async with running_router() as router:
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", method="GET") * 5000)
        statuses = {(await client.response()).status for _ in range(5000)}
    assert statuses == {200}


async def test_garbage_behind_a_request_is_refused_after_its_answer() -> None:
    async with running_pods(answers(b"ok")) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M) + b"\0garbage\r\n\r\n")
        assert (await client.response()).body == b"ok"
        refused = await client.response()
        assert (refused.status, refused.headers["connection"]) == (400, "close")
        assert await client.closed() == b""


async def test_a_body_too_large_is_refused_before_it_is_sent_and_the_answer_is_not_lost() -> None:
    async with running_router(max_body_bytes=1000) as router:
        client = await router.client()
        client.send(request_bytes(b"x" * 3_000_000))
        response = await client.response()
    assert (response.status, response.headers["connection"]) == (413, "close")
    assert "1000 bytes" in response.error


async def test_a_body_that_waits_to_be_invited_is() -> None:
    async with running_pods(answers(b"ok")) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        whole = request_bytes(M, headers="Expect: 100-continue\r\n")
        client.send(whole[: -len(M)])
        client.expect()
        assert (await client.event()).status_code == 100
        client.send(M)
        assert (await client.event()).status_code == 200
        assert pods[0].calls[0].header("expect") is None


async def test_http_1_0_gets_what_it_can_read() -> None:
    async def stream(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await call.send(b"0\r\n\r\n")

    async with running_pods(stream) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        head, _, body = (await client.closed()).partition(b"\r\n\r\n")
    assert body == b"data: 1\n\n"
    assert b"transfer-encoding" not in head.lower()


async def test_a_chunked_request_reaches_the_pod_with_its_length() -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + b"5\r\n" + M[:5] + b"\r\n")
        client.send(b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(M) - 5, M[5:]))
        assert (await client.response()).status == 200
    assert pods[0].calls[0].body == M
    assert pods[0].calls[0].header("transfer-encoding") is None


async def test_headers_for_this_hop_go_no_further() -> None:
    headers = (
        "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: s\r\nX-End: 2\r\n"
    )
    answer_headers = b"Connection: X-Back\r\nX-Back: 1\r\nProxy-Authenticate: s\r\nX-End: 3\r\n"
    async with (
        running_pods(answers(headers=answer_headers)) as pods,
        running_router(forwarded=True) as router,
    ):
        router.serve("m", *pods)
        response = await router.post(M, headers=headers + "X-Forwarded-For: 10.9.9.9\r\n")
    call = pods[0].calls[0]
    assert [call.header(n) for n in ("x-hop", "keep-alive", "proxy-authorization", "connection")] == [
        None
    ] * 4
    assert call.header("x-end") == "2"
    assert b"x-forwarded-for: 127.0.0.1\r\n" in call.head
    assert b"X-Forwarded-For: 10.9.9.9\r\n" in call.head
    assert response.headers["x-end"] == "3"
    assert not {"x-back", "proxy-authenticate", "connection"} & set(response.headers)


SLOW: dict[str, tuple[bytes, dict[str, Any]]] = {
    "its first byte": (b"", {"header_timeout": 0.05}),
    "its head": (b"POST /v1/x HT", {"header_timeout": 0.05}),
    "its body": (request_bytes(M)[:-3], {"body_timeout": 0.05}),
}


@pytest.mark.parametrize(("data", "limits"), SLOW.values(), ids=SLOW)
async def test_a_client_that_keeps_the_router_waiting_for(data: bytes, limits: dict[str, Any]) -> None:
    async with running_router(**limits) as router:
        client = await router.client()
        client.send(data)
        if data:
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (408, "close")
        assert await client.closed() == b""


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with running_router(keepalive_timeout=0.05) as router:
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", method="GET"))
        assert (await client.response()).status == 200
        assert await client.closed() == b""


async def test_a_client_that_closes_its_half_counts_as_gone() -> None:
    async def behave(call: Call) -> None:
        await call.reader.read()

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M))
        await until(lambda: len(pods[0].calls) == 1, "the request")
        client.writer.write_eof()
        assert await client.closed() == b""
        await until(lambda: pods[0].closed == 1, "the pod's connection to end")


async def test_connection_close_is_honoured() -> None:
    async with running_pods(answers(b"ok")) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        response = await client.post(M, headers="Connection: close\r\n")
        assert (response.body, response.headers["connection"]) == (b"ok", "close")
        assert await client.closed() == b""


async def test_a_drain_finishes_what_runs_and_closes_what_does_not() -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await go.wait()
        await call.event(b"data: [DONE]\n\n")
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        idle, busy = await router.client(), await router.client()
        busy.send(request_bytes(M))
        busy.expect()
        await busy.event()
        await until(lambda: router.figures.client_connections == 2, "both clients")
        draining = asyncio.create_task(router.gateway.drain())
        assert await idle.closed() == b""
        assert not draining.done()
        go.set()
        assert (await busy.event()).data == b"data: 1\n\n"
        assert (await busy.event()).data == b"data: [DONE]\n\n"
        assert await draining is True
        with pytest.raises(ConnectionRefusedError):
            await router.client()


async def test_a_drain_cuts_what_outlasts_it() -> None:
    async def behave(call: Call) -> None:
        await call.reader.read()

    async with running_pods(behave) as pods, running_router(drain_timeout=0.1) as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M))
        await until(lambda: len(pods[0].calls) == 1, "the request")
        assert await router.gateway.drain() is False


async def test_in_the_lame_duck_time_requests_are_served_and_connections_end() -> None:
    async with running_pods(answers(b"ok")) as pods, running_router(lame_duck=60) as router:
        router.serve("m", *pods)
        draining = asyncio.create_task(router.gateway.drain())
        await until(lambda: router.gateway.closing, "the drain's begin")
        response = await router.post(M)
        assert (response.body, response.headers["connection"]) == (b"ok", "close")
        draining.cancel()


async def test_a_request_behind_one_that_was_promised_more_is_served_in_a_drain() -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await go.wait()
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave) as pods, running_router(lame_duck=60) as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M) * 2)
        client.expect()
        head = await client.event()
        assert b"connection" not in dict(head.headers)
        draining = asyncio.create_task(router.gateway.drain())
        await until(lambda: router.gateway.closing, "the drain's begin")
        go.set()
        assert [type(await client.event()) for _ in range(2)] == [h11.Data, h11.EndOfMessage]
        second = await client.response()
        assert (second.complete, second.headers["connection"]) == (True, "close")
        draining.cancel()


async def test_the_openai_client_sees_text_errors_and_cuts_for_what_they_are() -> None:
    event = b'data: {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": []}\n\n'

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(event)
        call.reset()

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        url = f"http://127.0.0.1:{router.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            with pytest.raises(openai.NotFoundError, match="the known ones: m"):
                await client.completions.create(model="x", prompt="p")
            seen = 0
            with pytest.raises(openai.APIError, match="in its midst"):
                async for _ in await client.completions.create(model="m", prompt="p", stream=True):
                    seen += 1
            assert seen == 1
            assert [model.id async for model in client.models.list()] == ["m"]
