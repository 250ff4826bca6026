"""Streams, retries, cancellation and cuts, between a client and pods on loopback."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Behaviour,
    Call,
    Pod,
    answers,
    body_for,
    request_bytes,
    resets,
    running_pods,
    running_router,
    sends,
    unanswering_port,
    until,
)

M = body_for("m")


async def test_a_response_with_a_length_passes_byte_for_byte() -> None:
    body = bytes(range(256)) * 999
    async with running_pods(answers(body, headers=b"X-Engine: 7\r\n")) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.status, response.body) == (200, body)
    assert response.headers["x-engine"] == "7"
    assert response.headers["content-length"] == str(len(body))


async def test_a_stream_passes_event_by_event_and_ends_cleanly() -> None:
    seen = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await seen.wait()  # the second event is sent only after the client has the first
        await call.event(b"data: [DONE]\n\n")
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M))
        client.expect()
        assert (await client.event()).status_code == 200
        assert (await client.event()).data == b"data: 1\n\n"
        seen.set()
        assert (await client.event()).data == b"data: [DONE]\n\n"
        assert type(await client.event()).__name__ == "EndOfMessage"


async def test_a_response_that_ends_with_the_connection_passes_whole() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nto the end"
    async with running_pods(sends(data, then_close=True)) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.body, response.complete) == (b"to the end", True)


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


async def test_connections_to_a_pod_are_used_again() -> None:
    async with running_pods(answers()) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        for _ in range(50):
            assert (await client.post(M)).status == 200
        assert (pods[0].opened, len(pods[0].calls)) == (1, 50)
        assert router.figures.upstream_opened == 1


async def test_a_pod_that_says_close_gets_a_new_connection_each_time() -> None:
    async with running_pods(answers(headers=b"Connection: close\r\n")) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        assert [(await client.post(M)).status for _ in range(3)] == [200] * 3
        assert pods[0].opened == 3


async def test_a_connection_that_closes_as_the_request_goes_out_is_no_fault_of_the_pod() -> None:
    served = set()

    async def once_per_connection(call: Call) -> None:
        if call.writer in served:
            call.reset()
            return
        served.add(call.writer)
        await answers()(call)

    async with running_pods(once_per_connection) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        assert [(await client.post(M)).status for _ in range(4)] == [200] * 4
        assert router.figures.ejections == 0


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


async def test_a_stream_that_a_pod_cuts_ends_with_an_error_event_and_uncleanly() -> None:
    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\ndata: unfini")
        call.writer.close()

    async with running_pods(behave, behave) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
        assert sum(len(pod.calls) for pod in pods) == 1, "what has begun is not retried"
        assert router.figures.cut_streams == 1
    assert not response.complete
    events = response.body.split(b"\n\n")
    assert events[:2] == [b"data: 1", b"data: unfini"]
    error = json.loads(events[2].removeprefix(b"data: "))["error"]
    assert error["code"] == "bad_upstream"
    assert b"[DONE]" not in response.body


CUTS = {
    "short of its length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
}


@pytest.mark.parametrize("data", CUTS.values(), ids=CUTS)
async def test_a_body_cut(data: bytes) -> None:
    async with running_pods(sends(data, then_close=True)) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
    assert (response.body, response.complete) == (b"abc", False)


async def test_a_body_cut_without_length_or_chunks_ends_in_a_reset() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with running_pods(sends(data, then_close=True)) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        client.send(request_bytes(M).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        with pytest.raises(ConnectionResetError):
            while await client.reader.read(1000):
                pass


NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length beside chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nzz",
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_a_pod_whose_answer_is(data: bytes) -> None:
    async with running_pods(sends(data)) as pods, running_router() as router:
        router.serve("m", *pods)
        response = await router.post(M)
        assert response.status == 502
        assert response.json()["error"]["code"] == "bad_upstream"
        await until(lambda: pods[0].closed == 1, "the connection's end")


async def test_a_second_response_to_one_request_is_never_passed_on() -> None:
    double = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" * 2
    async with running_pods(sends(double)) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        response = await client.post(M)
        assert response.status in (200, 502)
        await until(lambda: pods[0].closed == 1, "the connection's end")


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
AFTER_TWO = {
    "another length": (WHOLE % (5, b"other"), b"other", True),
    "no body": (WHOLE % (0, b""), b"", True),
    "another status": (WHOLE.replace(b"200 OK", b"400 Bad") % (2, b"no"), b"no", True),
    "a body cut short": (WHOLE % (5, b"oth"), b"oth", False),
}


@pytest.mark.parametrize(("third", "body", "complete"), AFTER_TWO.values(), ids=AFTER_TWO)
async def test_after_two_responses_alike_a_pod_may_send(third: bytes, body: bytes, complete: bool) -> None:
    count = 0

    async def behave(call: Call) -> None:
        nonlocal count
        count += 1
        await call.send(WHOLE % (2, b"ok") if count < 3 else third)
        if not complete and count == 3:
            call.writer.close()

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        assert [(await client.post(M)).body for _ in range(2)] == [b"ok", b"ok"]
        response = await client.post(M)
        assert (response.body, response.complete) == (body, complete)
        assert pods[0].opened == 1


async def test_a_second_response_behind_one_that_is_known_is_never_passed_on() -> None:
    count = 0

    async def behave(call: Call) -> None:
        nonlocal count
        count += 1
        await call.send(WHOLE % (2, b"ok") * (2 if count == 3 else 1))

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        answered = [(await client.post(M)).status for _ in range(4)]
        assert answered[:2] == [200, 200]
        assert answered[2] in (200, 502)
        assert answered[3] == 200
        assert len(pods[0].calls) == 4, "the fourth has an answer of its own"


async def test_an_interim_response_concerns_one_hop() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with running_pods(sends(data)) as pods, running_router() as router:
        router.serve("m", *pods)
        client = await router.client()
        assert [(await client.post(M)).body for _ in range(2)] == [b"ok", b"ok"]
        assert pods[0].opened == 1


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
