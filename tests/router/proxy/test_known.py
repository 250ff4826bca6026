"""Heads that were parsed before: taken without the parser, they mean what the parser would make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.errors import RouterError
from octavo_router.metrics import Figures
from octavo_router.proxy.known import KnownHead
from octavo_router.proxy.reader import Request, RequestReader
from octavo_router.settings import Settings

SETTINGS = Settings.load({}, max_head_bytes=2048, max_body_bytes=4096, max_buffered_bytes=1 << 20)
HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX-A: b\r\n\r\n"


def learned(data: bytes, body: bytes) -> KnownHead[str] | None:
    return KnownHead.learn(data, len(body), len(data), "what it says")


def test_a_head_is_known_again_with_another_length() -> None:
    known = learned(HEAD % b"3" + b"abc", b"abc")
    assert known is not None
    again = HEAD % b"12"
    assert known.match(again + b"z") == (len(again), 12)


UNKNOWN = {
    "another header": (HEAD % b"3").replace(b"X-A", b"X-B"),
    "one header more": (HEAD % b"3").replace(b"X-A", b"X-C: d\r\nX-A"),
    "a length that is none": HEAD % b"",
    "a signed length": HEAD % b"+3",
    "a list of lengths": HEAD % b"3, 3",
    "a length with a digit of another script": HEAD % "٣".encode(),
    "a length of ten digits": HEAD % b"0000000003",
    "a length before a bare LF": (HEAD % b"3").replace(b"3\r\n", b"3\n"),
    "a head cut short": (HEAD % b"3")[:-1],
    "a head cut within the length": (HEAD % b"3")[: (HEAD % b"3").index(b"3")],
}


@pytest.mark.parametrize("data", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_is(data: bytes) -> None:
    known = learned(HEAD % b"3" + b"abc", b"abc")
    assert known is not None
    assert known.match(data) is None


NOT_LEARNED = {
    "a head without a length": (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "a body of another size than counted": (HEAD % b"4" + b"\r\n\r\n", b"\r\n\r"),
    "a head that seems to end before": (b"\r\n\r\n" + HEAD % b"1" + b"a", b"a"),
}


@pytest.mark.parametrize(("data", "body"), NOT_LEARNED.values(), ids=NOT_LEARNED)
def test_not_learned_is(data: bytes, body: bytes) -> None:
    assert learned(data, body) is None


class Connection:
    """One connection's requests, and the first refusal."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.found: list[tuple[bytes, bytes, object]] = []
        self.status: int | None = None
        self.reader = RequestReader(SETTINGS, self.figures, self._take, lambda: None)

    def _take(self, request: Request) -> None:
        headers = [h for h in request.head.headers if h[0] != b"Content-Length"]
        self.found.append((request.head.target, request.body, headers))
        request.drop_body()

    def feed(self, data: bytes) -> None:
        if self.status is None:
            try:
                self.reader.feed(data)
            except RouterError as error:
                self.status = error.status


# Heads that follow one another on a connection: alike, almost alike, and such as only a parser refuses.
HEADS = st.sampled_from(
    [HEAD] * 12
    + [
        HEAD.replace(b"X-A", b"X-B"),
        HEAD.replace(b"Host", b"hOST"),
        HEAD.replace(b"X-A: b", b"X-A: b\r\nX-A: c"),
        HEAD.replace(b"X-A: b", b"Content-Length: %b" % b"%b"),
        HEAD.replace(b"X-A: b", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"X-A: b\r\n", b"X-A: b\n"),
        HEAD.replace(b"X-A: b", b"X-A: b\r\n c"),
        HEAD.replace(b"X-A: b", b"Expect: 100-continue"),
        HEAD.replace(b"X-A: b", b"Connection: close"),
        HEAD.replace(b"1.1", b"1.0"),
    ]
)
LENGTHS = st.sampled_from(
    [b"0", b"1", b"3", b"03", b"10", b"+3", b"3 ", b"-1", b"0x3", b"5000", b"99999999999"]
)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What is sent in one write each: mostly whole requests with the length that they say."""
    pieces = []
    for _ in range(draw(st.integers(2, 6))):
        body = b"y" * draw(st.integers(0, 12))
        said = b"%d" % len(body) if draw(st.integers(0, 4)) else draw(LENGTHS)
        head = draw(HEADS)
        pieces.append(head.replace(b"%b", said) + body)
    return pieces


@given(conversations(), st.lists(st.integers(1, 90), max_size=6))
def test_a_connection_reads_the_same_however_its_bytes_are_cut(writes: list[bytes], cuts: list[int]) -> None:
    data = b"".join(writes)
    by_write, whole, cut_up = Connection(), Connection(), Connection()
    for piece in writes:
        by_write.feed(piece)
    whole.feed(data)  # pipelined: all for the parser
    at = 0
    for cut in [*cuts, len(data)]:
        cut_up.feed(data[at : at + cut])
        at += cut
    for other in (by_write, cut_up):
        assert (other.found, other.status) == (whole.found, whole.status)
        other.reader.close()
        assert other.figures.buffered_bytes == 0


def test_limits_hold_for_known_heads_too() -> None:
    connection = Connection()
    connection.feed(HEAD % b"3" + b"abc")
    connection.feed(HEAD % b"5000" + b"x" * 100)
    assert (len(connection.found), connection.status) == (1, 413)
