"""Heads as they are written: what passes, what belongs to one hop, and that a parser reads them as meant."""

from __future__ import annotations

import h11
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.errors import NoReadyPodError
from octavo_router.proxy.heads import (
    HOP_BY_HOP,
    Framing,
    Header,
    ResponseHead,
    error_event,
    error_response,
    read_head,
    upstream_head,
)

NAMES = st.sampled_from(
    [b"X-A", b"x-b", b"Accept", b"TE", b"Keep-Alive", b"Upgrade", b"Proxy-Connection", b"Trailer"]
)
VALUES = st.sampled_from([b"", b"1", b"a, b", b"\xff\xfe", b"x" * 300])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
HOST: Header = (b"Host", b"client-says")


def sent(head: bytes) -> dict[bytes, list[bytes]]:
    """The headers of a request head, by lower-case name, as h11 reads them."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    found: dict[bytes, list[bytes]] = {}
    for name, value in event.headers:
        found.setdefault(name, []).append(value)
    return found


@given(HEADERS, st.integers(0, 10**9))
def test_end_to_end_headers_reach_the_pod_in_order_and_others_do_not(
    headers: list[Header], length: int
) -> None:
    head = read_head(b"POST", b"/v1/x", "1.1", True, [HOST, *headers])
    found = sent(upstream_head(head, b"pod:8000", length, b"id-1", b""))
    assert found.pop(b"host") == [b"pod:8000"]
    assert found.pop(b"content-length") == [str(length).encode()]
    assert found.pop(b"x-request-id") == [b"id-1"]
    expected: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name.lower() not in HOP_BY_HOP:
            expected.setdefault(name.lower(), []).append(value)
    assert found == expected


def test_what_connection_names_stays_on_its_hop_but_never_more_than_that() -> None:
    headers: list[Header] = [
        HOST,
        (b"X-A", b"1"),
        (b"Connection", b"close, X-A"),
        (b"Connection", b"host"),
        (b"X-B", b"2"),
    ]
    found = sent(upstream_head(read_head(b"POST", b"/v1/x", "1.1", False, headers), b"pod", 3, b"i", b""))
    assert set(found) == {b"host", b"x-b", b"x-request-id", b"content-length"}


@given(
    HEADERS, st.sampled_from([Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE]), st.booleans(), st.booleans()
)
def test_response_heads_are_read_as_meant(headers: list[Header], framing: int, keep: bool, old: bool) -> None:
    head = ResponseHead(299, headers).to_client(framing, keep_alive=keep, http10=old, request_id=b"id-1")
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    parser.receive_data(head)
    event = parser.next_event()
    assert isinstance(event, h11.Response)
    found = dict(event.headers)
    assert event.status_code == 299
    assert (found.get(b"transfer-encoding") == b"chunked") is (framing == Framing.CHUNKED)
    assert found.get(b"connection") == (None if keep and not old else b"keep-alive" if keep else b"close")
    assert found[b"x-request-id"] == b"id-1"


def test_the_pod_s_own_request_id_passes() -> None:
    headers: list[Header] = [(b"X-Request-Id", b"pod")]
    head = ResponseHead(200, headers).to_client(
        Framing.LENGTH, keep_alive=True, http10=False, request_id=b"ours"
    )
    assert head == b"HTTP/1.1 200 OK\r\nX-Request-Id: pod\r\n\r\n"


def test_errors_carry_their_length_and_when_to_come_back() -> None:
    data = error_response(NoReadyPodError("Nobody."), b"id-1", keep_alive=True, http10=False)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"retry-after: 5" in head
    assert b"content-length: %d" % len(body) in head
    assert b'"message":"Nobody."' in body
    assert error_event(NoReadyPodError("Nobody.")) == b"\n\ndata: " + body + b"\n\n"
