"""What a pod may do on one connection, and what ends it."""

from __future__ import annotations

import asyncio

import pytest
from tests.router.loopback import (
    Call,
    answers,
    body_for,
    request_bytes,
    running_pods,
    running_router,
    sends,
    until,
)

M = body_for("m")


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


async def test_what_a_pod_sends_behind_its_503_is_not_taken_for_the_next_pods_failure() -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\nbusy"
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await go.wait()
        await answers(b"late")(call)

    async with running_pods(sends(busy), behave) as pods, running_router() as router:
        router.serve("m", pods[0])
        client = await router.client()
        router.serve("m", *pods)
        client.send(request_bytes(M) + request_bytes(M))
        await until(lambda: len(pods[1].calls) == 1, "the other pod's request")
        go.set()
        assert [(await client.response()).body for _ in range(2)] == [b"late"] * 2
        assert router.figures.of("m").in_flight == 0
        assert router.figures.of("m").requests == {200: 2}


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
