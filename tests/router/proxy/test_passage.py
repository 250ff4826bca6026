"""How responses go on to clients, whole, in chunks and cut; alone, and between client and pods."""

from __future__ import annotations

import asyncio
import json

import h11
import pytest
from tests.router.loopback import (
    STREAM_HEAD,
    Call,
    answers,
    body_for,
    request_bytes,
    running_pods,
    running_router,
    sends,
)

from octavo_router.errors import BadUpstreamError
from octavo_router.proxy.heads import Header, ResponseHead, read_head
from octavo_router.proxy.passage import passage_of

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


KINDS: dict[str, list[Header]] = {
    "with a length": [(b"Content-Length", b"6")],
    "in chunks": [(b"Transfer-Encoding", b"chunked")],
    "an event stream": [(b"Transfer-Encoding", b"chunked"), (b"Content-Type", b"text/event-stream")],
}
ASKED = read_head(b"POST", b"/v1/completions", "1.1", True, [(b"Host", b"h")])
OLD = read_head(b"POST", b"/v1/completions", "1.0", False, [])


@pytest.mark.parametrize("headers", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"abc", b"def"], [b"", b"abcdef", b""]])
def test_a_parser_reads_what_the_pod_sent_in_whatever_pieces(
    headers: list[Header], pieces: list[bytes]
) -> None:
    passage = passage_of(ResponseHead(200, headers), ASKED, b"id", keep_alive=True)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"".join(passage.encoded(p, n == len(pieces)) for n, p in enumerate(pieces, 1)))
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert (body, type(event)) == (b"abcdef", h11.EndOfMessage)
    assert passage.keep_alive


def test_the_head_goes_out_once_and_with_the_first_piece() -> None:
    passage = passage_of(ResponseHead(200, KINDS["in chunks"]), ASKED, b"id", keep_alive=True)
    assert passage.encoded(b"a", last=False).endswith(b"\r\n\r\n1\r\na\r\n")
    assert passage.encoded(b"b", last=False) == b"1\r\nb\r\n"
    assert passage.encoded(b"", last=True) == b"0\r\n\r\n"


def test_how_a_cut_is_told_depends_on_what_was_promised() -> None:
    error = BadUpstreamError("It broke.")
    stream, plain = (ResponseHead(200, KINDS[kind]) for kind in ("an event stream", "in chunks"))
    for head, request, told, reset in (
        (stream, ASKED, True, False),
        (stream, OLD, True, False),
        (plain, ASKED, False, False),
        (plain, OLD, False, True),
    ):
        passage = passage_of(head, request, b"id", keep_alive=True)
        passage.encoded(b"abc", last=False)
        last = passage.cut(error)
        assert ((b"It broke." in last), passage.ends_by_reset) == (told, reset)
        assert not last.endswith(b"0\r\n\r\n")
