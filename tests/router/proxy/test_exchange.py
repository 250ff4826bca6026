"""Requests, cancellation, silence and back-pressure, between a client and pods on loopback."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any, cast

import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Call,
    Pod,
    answers,
    body_for,
    once_per_connection,
    request_bytes,
    resets,
    running_pods,
    running_router,
    unanswering_port,
    until,
)

from octavo_router.proxy.client import ClientConnection

M = body_for("m")


async def test_the_request_reaches_the_pod_as_it_was_sent() -> None:
    body = body_for("m", messages=[{"content": "ä" * 100_000}])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = f"TraceParent: {trace}\r\nAuthorization: Bearer k\r\nX-Request-Id: mine\r\nTE: trailers\r\n"
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(body, "/v1/completions?beta=1", headers)
    call = pods[0].calls[0]
    assert call.head.startswith(b"POST /v1/completions?beta=1 HTTP/1.1\r\n")
    assert call.body == body
    assert call.header("traceparent") == trace
    assert call.header("authorization") == "Bearer k"
    assert call.header("x-request-id") == response.headers["x-request-id"] == "mine"
    assert call.header("host") == f"127.0.0.1:{pods[0].port}"
    assert call.header("te") is None


async def test_a_connection_that_closes_as_the_request_goes_out_is_no_fault_of_the_pod() -> None:
    async with running_pods(once_per_connection()) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        assert [(await client.post(M)).status for _ in range(4)] == [200] * 4
        assert router.figures.ejections == 0


@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "in mid-stream"])
async def test_a_client_that_leaves_frees_the_pod(begun: bool) -> None:
    async def behave(call: Call) -> None:
        if begun:
            await call.send(STREAM_HEAD)
            await call.event(b"data: 1\n\n")
        await call.reader.read()  # to the end of the connection

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M))
        await until(lambda: len(pods[0].calls) == 1, "the request")
        if begun:
            client.expect()
            await client.event()
        client.leave()
        await until(lambda: pods[0].closed == 1, "the pod's connection to end")
        await until(lambda: router.figures.cancelled == 1, "the count")
        (route,) = router.registry.routes()
        assert route.figures.in_flight == 0
        assert route.ready[0].in_flight == 0
        assert route.figures.requests == ({200: 1} if begun else {499: 1})


async def test_a_client_that_leaves_while_a_pod_is_connected_to_is_let_go() -> None:
    async with running_router(connect_timeout=60) as router:
        with unanswering_port() as port:
            router.serve("m", Pod(port=port))
            client = await router.client()
            client.send(request_bytes(M))
            (route,) = router.registry.routes()
            await until(lambda: route.ready[0].in_flight == 1, "the try")
            client.leave()
            await until(lambda: route.ready[0].in_flight == 0, "the end of the try")


async def test_a_client_that_does_not_read_holds_the_pod_back() -> None:
    sent = 0

    async def behave(call: Call) -> None:
        nonlocal sent
        await call.send(STREAM_HEAD)
        for _ in range(1000):
            await call.event(b"x" * 65_536)
            sent += 1
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(request_bytes(M))
        await until(lambda: any(c.paused for c in router.gateway.clients), "the router to stop reading")
        assert 0 < sent < 500, "64 MB wait at the pod, not in the router"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        response = await client.response()
    assert (len(response.body), response.complete) == (65_536_000, True)


async def test_a_client_that_never_reads_is_cut_off() -> None:
    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        while True:
            await call.event(b"x" * 65_536)

    async with running_pods(behave) as pods, running_router(stall_timeout=0.1) as router:
        router.serve("m", *pods)
        client = await router.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(request_bytes(M))
        await until(lambda: router.figures.cancelled == 1, "the cut")


class BrimfulTransport:
    """A client's transport whose buffer is full after each write, and stays so."""

    def __init__(self, client: ClientConnection) -> None:
        self._client, self._transport = client, client.transport

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        self._client.pause_writing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_a_client_that_reads_the_end_slowly_does_not_hold_up_the_next_one() -> None:
    async with running_pods(answers(b"x" * 100_000)) as pods, running_router() as router:
        router.serve("m", *pods)
        slow = await router.client()
        await until(lambda: len(router.gateway.clients) == 1, "the client")
        (connection,) = router.gateway.clients
        connection.transport = cast(asyncio.Transport, BrimfulTransport(connection))
        assert len((await slow.post(M)).body) == 100_000
        assert connection.paused
        assert len((await router.post(M)).body) == 100_000
        assert pods[0].opened == 1


async def test_each_pod_may_close_an_idle_connection_as_the_request_goes_out() -> None:
    async with running_pods(once_per_connection(), once_per_connection()) as pods, running_router() as router:
        router.serve("m", *pods)
        assert [(await router.post(M)).status for _ in range(2)] == [200] * 2
        assert [len(pod.calls) for pod in pods] == [1, 1], "an idle connection to each"
        pods[0].behave = resets
        assert [(await router.post(M)).status for _ in range(2)] == [200] * 2, "one of them went to both"
        closed = {e.port: e.breaker.closed for e in router.registry.resolve("m").ready}
        assert closed == {pods[0].port: False, pods[1].port: True}


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in mid-stream"])
async def test_a_pod_that_falls_silent(begun: bool) -> None:
    async def behave(call: Call) -> None:
        if begun:
            await call.send(STREAM_HEAD)
            await call.event(b"data: 1\n\n")
        await call.reader.read()

    waits = {"chunk_timeout": 0.2, "upstream_timeout": 0.2}
    async with running_pods(behave) as pods, running_router(**waits) as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert response.status == (200 if begun else 504)
    assert b"upstream_timeout" in response.body
    assert response.complete is not begun


async def test_the_kept_body_is_dropped_at_the_first_byte() -> None:
    body = body_for("m", prompt="x" * 2_000_000)

    def kept_bytes() -> int:
        traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/octavo_router/*")])
        return sum(trace.size for trace in traces.traces)

    async def behave(call: Call) -> None:
        assert router.figures.buffered_bytes == len(body) < kept_bytes()
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await call.reader.read()

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        tracemalloc.start()
        client.send(request_bytes(body))
        client.expect()
        await client.event()
        assert router.figures.buffered_bytes == 0
        assert kept_bytes() < 100_000
        tracemalloc.stop()


async def test_a_pod_that_is_withdrawn_finishes_its_streams_and_gets_nothing_new() -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await go.wait()
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave, answers(b"new")) as (old, new), running_router() as router:
        router.serve("m", old)
        client = await router.client()
        client.send(request_bytes(M))
        client.expect()
        await client.event()
        router.serve("m", new)
        assert (await router.post(M)).body == b"new"
        go.set()
        assert (await client.event()).data == b"data: 1\n\n"
        assert type(await client.event()).__name__ == "EndOfMessage"
        await until(lambda: old.closed == 1, "the old pod's connection to close")
