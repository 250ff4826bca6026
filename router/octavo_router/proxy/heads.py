"""HTTP/1.1 heads: what a request's head says, and the heads that are written. Pure; RFC 9110 and 9112."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from octavo_router.errors import (
    BadUpstreamError,
    ExpectationFailedError,
    InvalidRequestError,
    RouterError,
    VersionNotSupportedError,
)

Header = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection"
    b" te trailer transfer-encoding upgrade".split()
)
# These are written anew for the pod: the body is whole, and the router has answered `Expect` itself.
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"http2-settings", b"x-request-id"}
_MAX_ID = 128
_BODYLESS = (204, 304)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Framing:
    """How a response's body is delimited towards the client. Plain integers: reading an enum costs a call."""

    LENGTH: Final = 0  # as the pod gave it: Content-Length, or no body at all
    CHUNKED: Final = 1
    CLOSE: Final = 2  # an HTTP/1.0 client: the end of the connection


class RequestHead(msgspec.Struct, gc=False):
    """A checked request head.

    Requests of a connection share it when their heads differ only in their length, which a body tells better.
    """

    method: bytes
    target: bytes  # origin form: path and query
    headers: list[Header]
    http10: bool
    keep_alive: bool
    content_length: int | None  # None: none given
    chunked: bool
    expects_continue: bool
    request_id: bytes | None
    nominated: frozenset[bytes] = frozenset()  # further headers that `Connection` names as meant for this hop
    end_to_end: bytes | None = None  # the lines that go on to a pod, once they have been asked for

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)


def read_head(
    method: bytes, target: bytes, version: str, keep_alive: bool, headers: list[Header]
) -> RequestHead:
    """Checks what the parser lets through but RFC 9112 does not, and what this router does not serve.

    The strict parser has already refused two lengths, length beside chunks, folded lines, bare CR or LF.

    Raises:
        RouterError: with the sentence for the client.
    """
    if version not in ("1.1", "1.0"):
        raise VersionNotSupportedError(f"HTTP/{version} is not spoken here; use HTTP/1.1.")
    head = RequestHead(
        method, _origin_form(target), headers, version == "1.0", keep_alive, None, False, False, None
    )
    hosts = 0
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"host":
            hosts += 1
        elif lowered in _NOT_FORWARDED:
            _note(head, lowered, value)
    if hosts > 1 or (hosts == 0 and not head.http10):
        raise InvalidRequestError(f"The request has {hosts} Host headers; HTTP/1.1 wants exactly one.")
    return head


def partial_head(target: bytes, headers: list[Header]) -> RequestHead:
    """What is known of a head that has not come whole or cannot be read: for its refusal only."""
    known = target if headers and target.startswith(b"/") else b""  # without headers it may go on
    head = RequestHead(b"", known, headers, False, False, None, False, False, None)
    for name, value in headers:
        if name.lower() == b"x-request-id":
            _note(head, b"x-request-id", value)
    return head


def _origin_form(target: bytes) -> bytes:
    """The path and query of a request target, that of an absolute one included (RFC 9112, 3.2.2)."""
    if target.startswith(b"/"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise InvalidRequestError(f"The request's target {target[:100].decode('latin-1')!r} is not a path.")
    return b"/" + rest.partition(b"/")[2]


def _note(head: RequestHead, lowered: bytes, value: bytes) -> None:
    if lowered == b"connection":
        head.nominated |= _nominated(value)
    elif lowered == b"content-length":
        head.content_length = int(value)
    elif lowered == b"transfer-encoding":
        if value.lower() != b"chunked" or head.http10:
            raise InvalidRequestError(
                f"Transfer-Encoding {value[:50]!r} is not understood here; send it as 'chunked'."
            )
        head.chunked = True
    elif lowered == b"x-request-id":
        head.request_id = value if 0 < len(value) <= _MAX_ID and value.isascii() else None
    elif lowered == b"expect":
        if value.lower() != b"100-continue":
            raise ExpectationFailedError(f"Expect: {value[:50]!r} cannot be met; only 100-continue is known.")
        head.expects_continue = not head.http10


def _nominated(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip().lower() for token in value.split(b",")) - {b"keep-alive", b"close", b""}


def upstream_head(head: RequestHead, host: bytes, length: int, request_id: bytes, extra: bytes) -> bytes:
    """The head of the request to a pod: end-to-end headers as they came, in their order."""
    lines = head.end_to_end
    if lines is None:
        head.end_to_end = lines = _end_to_end(head)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
        head.method,
        head.target,
        host,
        lines,
        extra,
        request_id,
        length,
    )


def _end_to_end(head: RequestHead) -> bytes:
    hop = _NOT_FORWARDED | head.nominated if head.nominated else _NOT_FORWARDED
    return b"".join([b"%b: %b\r\n" % header for header in head.headers if header[0].lower() not in hop])


class ResponseHead:
    """The head of a pod's response, as far as it is needed to pass it on."""

    __slots__ = ("_identified", "_lines", "chunked", "event_stream", "length", "sized", "status")

    def __init__(self, status: int, headers: list[Header]) -> None:
        """Raises BadUpstreamError for a transfer coding that would be lost on the way."""
        self.status = status
        self.length: int | None = None
        self.chunked = self.event_stream = self._identified = False
        nominated: frozenset[bytes] = frozenset()
        lines: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                self.length = int(value)
            elif lowered == b"connection":
                nominated |= _nominated(value)
            elif lowered not in HOP_BY_HOP:
                lines.append((lowered, b"%b: %b\r\n" % (name, value)))
                self._note(lowered, value)
            elif lowered == b"transfer-encoding":
                self._note_coding(value)
        self.sized = self.length is not None or status in _BODYLESS
        self._lines = b"".join([line for lowered, line in lines if lowered not in nominated])

    def _note(self, lowered: bytes, value: bytes) -> None:
        if lowered == b"content-type":
            self.event_stream = value.lower().startswith(b"text/event-stream")
        elif lowered == b"x-request-id":
            self._identified = True

    def _note_coding(self, value: bytes) -> None:
        if value.lower() != b"chunked":
            raise BadUpstreamError(f"The model's pod answered with the transfer encoding {value[:50]!r}.")
        self.chunked = True

    def to_client(self, framing: int, *, keep_alive: bool, http10: bool, request_id: bytes) -> bytes:
        """The head of the response to the client: the pod's end-to-end headers, this hop's framing."""
        if framing == Framing.CHUNKED:
            size = b"transfer-encoding: chunked\r\n"
        else:
            size = b"" if self.length is None else b"content-length: %d\r\n" % self.length
        return b"%b%b%b%b%b\r\n" % (
            STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status,
            self._lines,
            b"" if self._identified else b"x-request-id: %b\r\n" % request_id,
            size,
            connection_line(keep_alive, http10),
        )


def connection_line(keep_alive: bool, http10: bool) -> bytes:
    """`Connection`, where it differs from what the version implies."""
    if not keep_alive:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if http10 else b""


def own_response(
    status: int, body: bytes, request_id: bytes, extra: bytes = b"", *, keep_alive: bool, http10: bool
) -> bytes:
    """A whole JSON response of the router's own."""
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b" % (
        STATUS_LINES[status],
        len(body),
        request_id,
        extra,
        connection_line(keep_alive, http10),
        body,
    )


def error_response(error: RouterError, request_id: bytes, *, keep_alive: bool, http10: bool) -> bytes:
    """The response that carries an error of the router's own."""
    extra = b""
    if error.retry_after_s is not None:
        extra += b"retry-after: %d\r\n" % error.retry_after_s
    if error.status == HTTPStatus.UNAUTHORIZED:
        extra += b"www-authenticate: Bearer\r\n"
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        extra += b"allow: GET, POST\r\n"
    return own_response(error.status, error.body(), request_id, extra, keep_alive=keep_alive, http10=http10)


def error_event(error: RouterError) -> bytes:
    """A server-sent event for an error in mid-stream; its blank line ends what the pod left unfinished."""
    return b"\n\ndata: %b\n\n" % error.body()


STATUS_LINES = {int(s): b"HTTP/1.1 %d %b\r\n" % (s, s.phrase.encode()) for s in HTTPStatus}
