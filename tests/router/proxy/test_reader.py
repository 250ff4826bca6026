"""What is let in, what is refused, and that h11, an independent parser, reads the same requests."""

from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo_router.errors import RouterError
from octavo_router.metrics import Figures
from octavo_router.proxy.reader import Phase, Request, RequestReader
from octavo_router.settings import Settings

SETTINGS = Settings.load({}, max_head_bytes=2048, max_body_bytes=4096, max_buffered_bytes=6000)
POST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Read:
    """The outcome of reading some bytes."""

    def __init__(self, *pieces: bytes, settings: Settings = SETTINGS) -> None:
        self.requests: list[Request] = []
        self.invited = 0
        self.figures = Figures()
        self.error: RouterError | None = None
        self.reader = RequestReader(settings, self.figures, self.requests.append, self._invite)
        try:
            for piece in pieces:
                self.reader.feed(piece)
        except RouterError as error:
            self.error = error

    def _invite(self) -> None:
        self.invited += 1

    @property
    def status(self) -> int | None:
        return self.error.status if self.error else None


REFUSED: dict[str, tuple[bytes, int]] = {
    "two equal lengths": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400),
    "two different lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nab", 400),
    "a list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\nab", 400),
    "a signed length": (POST + b"Content-Length: +2\r\n\r\nab", 400),
    "a length in hexadecimal": (POST + b"Content-Length: 0x2\r\n\r\nab", 400),
    "a length with a space": (POST + b"Content-Length: 2 2\r\n\r\nab", 400),
    "a length then chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks then a length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    "chunks twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding that is not chunked": (POST + b"Transfer-Encoding: identity\r\n\r\nab", 400),
    "almost chunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", 400),
    "a folded header": (POST + b"A: b\r\n c\r\n\r\n", 400),
    "a folded first header": (POST + b" A: b\r\n\r\n", 400),
    "bare LF for line ends": (b"POST /v1/x HTTP/1.1\nHost: a\n\n", 400),
    "a bare LF after a header": (POST + b"A: b\nC: d\r\n\r\n", 400),
    "a bare LF at the head's end": (POST + b"A: b\r\n\n", 400),
    "a bare CR in a header": (POST + b"A: b\rC: d\r\n\r\n", 400),
    "a NUL in a header": (POST + b"A: b\0\r\n\r\n", 400),
    "a control character in a header": (POST + b"A: \x01\r\n\r\n", 400),
    "a space before the colon": (POST + b"A : b\r\n\r\n", 400),
    "no colon": (POST + b"Abc\r\n\r\n", 400),
    "an empty name": (POST + b": b\r\n\r\n", 400),
    "a name that is not a token": (POST + b"A\xff: b\r\n\r\n", 400),
    "no Host": (b"POST /v1/x HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (POST + b"Host: b\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /v1/x\r\n\r\n", 505),
    "HTTP/1.2": (b"POST /v1/x HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0 in words": (b"POST /v1/x HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nxx", 405),
    "a target that is no path": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with a space": (b"POST /v1/x y HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with a control character": (b"POST /v1/\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a chunk size in 0x form": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    "a signed chunk size": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "a chunk size after a space": (CHUNKED + b" 1\r\na\r\n0\r\n\r\n", 400),
    "a chunk size before a space": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    "a chunk size with an underscore": (CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400),
    "a chunk size of 68 bits": (CHUNKED + b"10000000000000001\r\na\r\n0\r\n\r\n", 400),
    "no chunk size": (CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
    "a bare LF after a chunk size": (CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    "a bare LF in a chunk extension": (CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n", 400),
    "a chunk longer than its size": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    "a trailer that is a length": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", 400),
    "another expectation": (POST + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\nab", 417),
    "a head too large": (POST + b"A: " + b"b" * 3000 + b"\r\n\r\n", 431),
    "a head too large that does not end": (POST + b"A: " + b"b" * 3000, 431),
    "a target too long": (b"POST /v1/" + b"b" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    "too many headers": (POST + b"A:\r\n" * 300 + b"\r\n", 431),
    "trailers too large": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 500 + b"\r\n", 431),
    "a body announced too large": (POST + b"Content-Length: 5000\r\n\r\n", 413),
    "chunks too large": (CHUNKED + b"1388\r\n" + b"a" * 5000 + b"\r\n0\r\n\r\n", 413),
    "data after the last request": (POST + b"Connection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_refused_is(data: bytes, status: int) -> None:
    read = Read(data)
    assert read.status == status, read.error
    assert str(read.error).endswith(".")


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_refused_byte_by_byte_is(data: bytes, status: int) -> None:
    assert Read(*(data[i : i + 1] for i in range(len(data)))).status == status


TAKEN: dict[str, tuple[bytes, bytes]] = {
    "a body with a length": (POST + b"Content-Length: 2\r\n\r\nab", b"ab"),
    "no body": (POST + b"\r\n", b""),
    "chunks": (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
    "a chunk extension": (CHUNKED + b"1;a=b\r\na\r\n0\r\n\r\n", b"a"),
    "chunk sizes with zeros": (CHUNKED + b"0001\r\na\r\n000\r\n\r\n", b"a"),
    "trailers, which are dropped": (CHUNKED + b"1\r\na\r\n0\r\nX: y\r\n\r\n", b"a"),
    "empty lines before": (b"\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nab", b"ab"),
    "HTTP/1.0 without a Host": (b"POST /v1/x HTTP/1.0\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "the absolute form": (b"POST http://b/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "an offer of h2c": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "an offer of h2c with chunks": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")
        + b"1\r\na\r\n0\r\n\r\n",
        b"a",
    ),
}


@pytest.mark.parametrize(("data", "body"), TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_taken_is(data: bytes, body: bytes, step: int) -> None:
    read = Read(*(data[i : i + step] for i in range(0, len(data), step)))
    assert read.error is None
    (request,) = read.requests
    assert (request.body, request.head.target) == (body, b"/v1/x")
    assert b"upgrade" not in [name.lower() for name, _ in request.head.headers]
    assert read.reader.phase is Phase.IDLE
    assert read.figures.buffered_bytes == len(body)
    request.drop_body()
    assert read.figures.buffered_bytes == 0


def test_pipelined_requests_come_out_in_order() -> None:
    data = b"".join(POST + b"Content-Length: 1\r\n\r\n%d" % n for n in range(9))
    assert [r.body for r in Read(data).requests] == [b"%d" % n for n in range(9)]


def test_tiny_chunks_with_long_extensions_are_refused() -> None:
    chunk = b"1;" + b"x" * 200 + b"\r\na\r\n"
    read = Read(CHUNKED, *[chunk] * 1000)
    assert read.status == 400
    assert "carry too little" in str(read.error)


def test_a_trailer_without_an_end_is_refused() -> None:
    read = Read(CHUNKED, b"3e8\r\n" + b"a" * 1000 + b"\r\n0\r\nA: ", *[b"b" * 100] * 30)
    assert read.status == 431


def test_bodies_held_by_all_connections_together_are_bounded() -> None:
    first = Read(POST + b"Content-Length: 4000\r\n\r\n", b"a" * 4000)
    second = RequestReader(SETTINGS, first.figures, first.requests.append, lambda: None)
    with pytest.raises(RouterError, match="all the request bodies") as refused:
        second.feed(POST + b"Content-Length: 4000\r\n\r\n" + b"a" * 4000)
    assert refused.value.status == 503
    second.close()
    assert first.figures.buffered_bytes == 4000


@pytest.mark.parametrize("waits", [True, False])
def test_a_body_is_invited_only_when_it_waits_to_be(waits: bool) -> None:
    expect = b"Expect: 100-continue\r\n" if waits else b""
    assert Read(POST + expect + b"Content-Length: 2\r\n\r\n").invited == waits


def h11_bodies(data: bytes) -> list[bytes]:
    """The bodies of the requests that h11 reads before it waits for more or refuses."""
    bodies: list[bytes] = []
    with contextlib.suppress(h11.RemoteProtocolError):
        while data := data.lstrip(b"\r\n"):  # empty lines before a request: RFC 9112, 2.2; h11 knows none
            parser = h11.Connection(h11.SERVER)
            parser.receive_data(data)
            body, kept = b"", False
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    return bodies
                if isinstance(event, h11.Request) and event.http_version == b"1.0":
                    kept = (b"connection", b"keep-alive") in list(event.headers)  # h11 closes all the same
                body += event.data if isinstance(event, h11.Data) else b""
            bodies.append(body)
            if parser.their_state is not h11.DONE and not kept:
                break
            data = parser.trailing_data[0]
    return bodies


# Fragments from which requests with every known ambiguity come about.
LINES = st.sampled_from(
    [
        b"Host: a",
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"content-length:3",
        b"Content-Length: 03",
        b"Content-Length: 3, 3",
        b"Content-Length: -3",
        b"Content-Length:\t3 ",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"transfer-encoding:\tchunked ",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding : chunked",
        b" Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"X: \xff",
        b"X:",
    ]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\0\r\n"])
STARTS = st.sampled_from(
    [b"POST /v1/x HTTP/1.1\r\n"] * 8 + [b"POST /v1/x HTTP/1.0\r\n", b"GET /v1/x HTTP/1.1\n"]
)
BODIES = st.sampled_from(
    [
        b"",
        b"abc",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3;x\r\nabc\r\n0\r\n\r\n",
        b"03\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        data += draw(STARTS)
        lines = [b"Host: a", *draw(st.lists(LINES, max_size=3))]
        data += b"".join(line + draw(ENDS) for line in lines) + draw(ENDS) + draw(BODIES)
    return data


@given(streams())
@example(POST.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n" + POST + b"\r\n")
def test_what_is_taken_is_what_h11_reads_too(data: bytes) -> None:
    read = Read(data)
    ours, theirs = [r.body for r in read.requests], h11_bodies(data)
    assert ours == theirs[: len(ours)], "another reading of the same bytes"
    assert len(ours) == len(theirs) or read.error is not None, "what h11 reads is taken or refused"


@given(streams(), st.lists(st.integers(1, 60), max_size=20))
def test_how_the_bytes_are_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    whole, cut_up = Read(data), Read(*pieces, data[at:])
    assert [r.body for r in whole.requests] == [r.body for r in cut_up.requests]
    assert whole.status == cut_up.status


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_or_refused_in_one_sentence(data: bytes) -> None:
    read = Read(data)
    assert read.error is None or 400 <= read.error.status < 600
    read.reader.close()
    for request in read.requests:
        request.drop_body()
    assert read.figures.buffered_bytes == 0
