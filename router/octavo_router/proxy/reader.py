"""Bytes of a client in, whole checked requests out. Parsed by httptools alone, in its strict mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools
import msgspec

from octavo_router.errors import (
    BodyTooLargeError,
    HeadTooLargeError,
    InvalidRequestError,
    MethodNotAllowedError,
    OverloadedError,
    RouterError,
)
from octavo_router.metrics import Figures
from octavo_router.proxy.heads import Header, RequestHead, partial_head, read_head
from octavo_router.proxy.known import KnownHead
from octavo_router.settings import Settings

_MAX_HEADERS = 256
_MAX_KNOWN = 8192  # bytes of a head that is kept to be known again
# So many bytes may a chunked body take on the wire for each that it carries: extensions are no free channel.
_MAX_CHUNK_OVERHEAD, _FREE_OVERHEAD = 8, 16_384


class Request(msgspec.Struct, eq=False):
    """One whole request. Its body counts towards `Figures.buffered_bytes` until `drop_body`."""

    head: RequestHead
    body: bytes
    figures: Figures

    def replace_body(self, body: bytes) -> None:
        self.figures.buffered_bytes += len(body) - len(self.body)
        self.body = body

    def drop_body(self) -> None:
        if self.body:
            self.figures.buffered_bytes -= len(self.body)
            self.body = b""


class Phase:
    """Where a reader is. Plain integers: an enum's members cost a call each."""

    IDLE: Final = 0  # between requests
    HEAD: Final = 1
    BODY: Final = 2


class RequestReader:
    """Reads the requests of one connection, in order.

    `on_request` gets each whole request; `on_continue` is to invite a body that waits for `100 Continue`.
    `on_head`, if there is one, gets a head whose body is still to come, before anything of the body is kept,
    and may refuse it with a RouterError; a request that is whole at once may come without.
    """

    __slots__ = (
        "_beginning",
        "_body",
        "_body_bytes",
        "_figures",
        "_head",
        "_headers",
        "_known",
        "_missing",
        "_on_continue",
        "_on_head",
        "_on_request",
        "_parser",
        "_read_bytes",
        "_settings",
        "_silent_bytes",
        "_target",
        "_trailer_bytes",
        "_unfinished",
        "_upgrade",
        "_wire_bytes",
        "phase",
    )

    def __init__(
        self,
        settings: Settings,
        figures: Figures,
        on_request: Callable[[Request], None],
        on_continue: Callable[[], None],
        on_head: Callable[[RequestHead], None] | None = None,
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._on_request = on_request
        self._on_continue = on_continue
        self._on_head = on_head
        self._body: list[bytes] = []
        self._upgrade = False
        self._body_bytes = 0
        self._known: KnownHead[RequestHead] | None = None
        self._missing = 0  # bytes of a body that the parser is not to see: its head was known
        self._reset()
        self._parser = httptools.HttpRequestParser(self)

    def _reset(self) -> None:
        self.phase = Phase.IDLE
        self._head: RequestHead | None = None
        self._headers: list[Header] = []
        self._target = b""
        self._trailer_bytes = self._wire_bytes = self._unfinished = self._read_bytes = 0
        self._silent_bytes = 0  # of a body's framing and trailers, since the body last went on
        self._beginning = b""  # of the request, up to its head's end

    def feed(self, data: bytes) -> None:
        """Reads on. Raises RouterError when what was sent cannot be served; nothing more may be fed then."""
        if self._missing:
            self._read_known(data)
            return
        if self.phase == Phase.IDLE:
            if self._known is not None and self._begin_known(self._known, data):
                return
            end = data.find(b"\r\n\r\n")
            self._beginning = data[: end + 4] if end > 0 else b""
        self._read_bytes += len(data)
        if self.phase == Phase.BODY:
            self._wire_bytes += len(data)
            self._silent_bytes += len(data)
        else:
            self._unfinished += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ if isinstance(error.__context__, RouterError) else error) from None
        except httptools.HttpParserError as error:
            raise InvalidRequestError(f"The request is not valid HTTP/1.1: {error}.") from None
        if self.phase != Phase.IDLE:
            self._check_unfinished()

    def unfinished(self) -> RequestHead:
        """The head of the request that is being read, or what has come of it."""
        return self._head or partial_head(self._target, self._headers)

    def close(self) -> None:
        """Gives back what an unfinished body holds; breaks the cycles with the parser and the connection."""
        self._figures.buffered_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body.clear()
        del self._parser, self._on_request, self._on_continue, self._on_head

    def _begin_known(self, known: KnownHead[RequestHead], data: bytes) -> bool:
        """Reads a request whose head was there before. False: it is for the parser."""
        found = known.match(data)
        if found is None:
            return False
        start, length = found
        missing = length + start - len(data)
        if missing < 0:  # and more behind it
            return False
        if missing or length > self._settings.max_body_bytes:
            self._begin_body(known.head, length)
            self._missing = missing
            self.on_body(data[start:])
            return True
        self._hold(length, known.head)
        self._on_request(Request(known.head, data[start:], self._figures))
        return True

    def _begin_body(self, head: RequestHead, length: int) -> None:
        """The head is whole: refuses a body that may not be sent."""
        self.phase = Phase.BODY
        self._head = head
        if length > self._settings.max_body_bytes:
            raise self._body_too_large()
        if self._on_head is not None and (length or head.chunked):
            self._on_head(head)

    def _read_known(self, data: bytes) -> None:
        missing = self._missing
        self._missing = max(0, missing - len(data))
        self.on_body(data if len(data) <= missing else data[:missing])
        if not self._missing:
            self.on_message_complete()
            if len(data) > missing:
                self.feed(data[missing:])

    def _learn(self, head: RequestHead, length: int) -> None:
        """Keeps a head that asks for nothing at its end; forgets all where no other request may follow."""
        if not head.keep_alive:
            self._known = None
        elif not (head.chunked or head.expects_continue or len(self._beginning) > _MAX_KNOWN):
            self._known = KnownHead.learn(self._beginning, length, self._read_bytes, head) or self._known

    def _check_unfinished(self) -> None:
        """Bounds what no callback has seen yet: a head or a trailer without an end, extensions of chunks."""
        unseen = self._unfinished if self.phase == Phase.HEAD else self._silent_bytes
        if unseen > self._settings.max_head_bytes:
            raise self._head_too_large()
        if self._wire_bytes > _FREE_OVERHEAD + _MAX_CHUNK_OVERHEAD * self._body_bytes:
            raise InvalidRequestError("The chunks of the request's body carry too little; send larger ones.")

    def _check_head(self) -> None:
        """Bounds a head whose every header has been seen. It cannot be larger than what was fed."""
        if len(self._headers) > _MAX_HEADERS:
            raise self._head_too_large()
        if self._unfinished > self._settings.max_head_bytes:
            sizes = (len(name) + len(value) + 4 for name, value in self._headers)
            if sum(sizes) + len(self._target) > self._settings.max_head_bytes:
                raise self._head_too_large()

    def _head_too_large(self) -> HeadTooLargeError:
        limit = self._settings.max_head_bytes
        return HeadTooLargeError(
            f"The request's head is larger than {limit} bytes or {_MAX_HEADERS} headers."
        )

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Serves a request that offers an upgrade (some clients do) as if it did not (RFC 9110, 7.8)."""
        kept = [h for h in self._headers if h[0].lower() not in (b"upgrade", b"connection")]
        lines = b"".join(b"%b: %b\r\n" % header for header in kept)
        start = b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._target)
        self._upgrade = False
        self._reset()
        self._parser = httptools.HttpRequestParser(self)
        self.feed(b"%b%b\r\n%b" % (start, lines, rest))

    # --- called by the parser; what is raised here comes out of `feed`

    def on_message_begin(self) -> None:
        self.phase = Phase.HEAD

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:
            self._headers.append((name, value))
            return
        self._trailer_bytes += len(name) + len(value) + 4  # a trailer: dropped
        if self._trailer_bytes > self._settings.max_head_bytes:
            raise self._head_too_large()

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._upgrade = parser.should_upgrade()
        if parser.get_method() == b"CONNECT":
            raise MethodNotAllowedError("CONNECT is not served here; use POST.")
        if self._upgrade:
            return
        self._check_head()
        version, keep_alive = parser.get_http_version(), parser.should_keep_alive()
        head = read_head(parser.get_method(), self._target, version, keep_alive, self._headers)
        self._unfinished = 0
        self._begin_body(head, head.content_length or 0)
        if head.expects_continue and head.has_body:
            self._on_continue()

    def on_body(self, piece: bytes) -> None:
        size = self._body_bytes + len(piece)
        if size > self._settings.max_body_bytes:
            raise self._body_too_large()
        self._hold(len(piece), self._head)
        self._silent_bytes = 0
        self._body_bytes = size
        self._body.append(piece)

    def _hold(self, size: int, head: RequestHead | None) -> None:
        """Counts bytes of a body; raises when all requests together hold too many."""
        figures = self._figures
        held = figures.buffered_bytes + size
        if held > self._settings.max_buffered_bytes:
            self._head = head
            raise OverloadedError("The router holds all the request bodies it may; try again in a moment.")
        figures.buffered_bytes = held

    def on_message_complete(self) -> None:
        head = self._head
        if head is None:  # an offered upgrade: `_read_without_upgrade` comes next
            return
        pieces = self._body
        request = Request(head, pieces[0] if len(pieces) == 1 else b"".join(pieces), self._figures)
        pieces.clear()
        if self._read_bytes or not head.keep_alive:
            self._learn(head, self._body_bytes)
        self._body_bytes = 0
        self._reset()
        self._on_request(request)

    def _body_too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The request's body is larger than {self._settings.max_body_bytes} bytes.")
