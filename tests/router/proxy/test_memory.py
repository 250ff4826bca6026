"""What is over is freed at once: the garbage collector of a router looks seldom."""

from __future__ import annotations

import gc

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

from octavo_router.proxy.client import ClientConnection
from octavo_router.proxy.exchange import Exchange
from octavo_router.proxy.reader import Phase, RequestReader
from octavo_router.proxy.upstream import UpstreamConnection

M = body_for("m")
KINDS = (ClientConnection, Exchange, RequestReader, UpstreamConnection)
ENDS = {
    "after an answer": request_bytes(M),
    "in mid-stream": request_bytes(body_for("m", stream=True)),
    "in the midst of a head": b"POST /v1/",
    "in the midst of a body": request_bytes(M)[:-1],
    "after what is not HTTP": b"?\r\n\r\n",
}


@pytest.mark.parametrize("data", ENDS.values(), ids=ENDS)
async def test_a_connection_that_ends_leaves_nothing_to_the_garbage_collector(data: bytes) -> None:
    async def behave(call: Call) -> None:
        if b"true" in call.body:
            await call.send(STREAM_HEAD)
            await call.event(b"data: 1\n\n")
            await call.reader.read()
        else:
            await answers()(call)

    def alive() -> int:
        return sum(type(o) in KINDS for o in gc.get_objects())

    async with running_pods(behave) as pods, running_router() as router:
        router.serve("m", *pods)
        gc.collect()
        gc.disable()
        try:
            client = await router.client()
            client.send(data)
            if data.endswith((b"}", b"?\r\n\r\n")):
                await client.reader.readuntil(b"\r\n\r\n")
            else:
                await until(lambda: any(c._reader.phase != Phase.IDLE for c in router.gateway.clients))
            client.leave()
            await until(lambda: not router.gateway.clients, "the end of the connection")
            router.gateway.pool.close()
            await until(lambda: alive() == 0, "all to be freed")
        finally:
            gc.enable()
