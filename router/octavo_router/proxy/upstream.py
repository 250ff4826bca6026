"""The pod's side of the data path: one connection, one request at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from octavo_router.endpoints import Endpoint
from octavo_router.errors import BadUpstreamError, RouterError
from octavo_router.proxy.heads import Header, ResponseHead
from octavo_router.proxy.known import KnownHead

if TYPE_CHECKING:
    from octavo_router.proxy.pool import Pool

_MAX_HEAD_BYTES = 65_536
_JOINED_BYTES = 65_536  # up to here a copy is cheaper than a second system call
_FRESH, _REUSED = False, True


class Asker(Protocol):
    """Who has asked a pod, and is told what comes of it: an exchange."""

    def begin(self, head: ResponseHead) -> None:
        """The head of the response is here."""

    def forward(self, body: bytes, last: bool) -> None:
        """A piece of the body is here; nothing of a head that has not begun yet."""

    def lost(self) -> None:
        """The connection is gone, and the response is not complete."""

    def fail(self, error: RouterError) -> None:
        """The answer is of no use; the connection is closed already."""


class UpstreamConnection(asyncio.Protocol):
    """A keep-alive connection to a pod: an asker's from `send` to the response's end, else the pool's."""

    __slots__ = (
        "_beginning",
        "_head",
        "_head_bytes",
        "_headers",
        "_keep_alive",
        "_known",
        "_parser",
        "_paused",
        "_pool",
        "_read_bytes",
        "_until_eof",
        "complete",
        "endpoint",
        "exchange",
        "idle_since",
        "on_body",
        "pieces",
        "reused",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Pool, endpoint: Endpoint) -> None:
        self._pool = pool
        self.endpoint = endpoint
        self.exchange: Asker | None = None
        self.reused = _FRESH
        self.idle_since = 0.0
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # called by the parser: no Python frame for a chunk
        self._headers: list[Header] = []
        self._head_bytes = self._read_bytes = 0
        self._beginning = b""  # the read that began the response, until it is known what it says
        self._head: ResponseHead | None = None
        self._known: KnownHead[ResponseHead] | None = None  # the head of a former response
        self._keep_alive = self._until_eof = self._paused = self.complete = False
        self._parser = httptools.HttpResponseParser(self)

    # --- the exchange's side

    def send(self, exchange: Asker, head: bytes, body: bytes) -> None:
        """Sends one request. The response, or its failure, is told to the exchange."""
        self.exchange = exchange
        self.complete = False
        self._read_bytes = 0
        if len(body) <= _JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def abandon(self) -> None:
        """Drops the request, and the connection with it: the pod sees at once that nobody waits any more."""
        self.exchange = None
        self.transport.abort()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # an answer to nothing
            self.transport.abort()
            return
        if not self._read_bytes:
            if self._known is not None and self._pass_known(self._known, exchange, data):
                return
            self._beginning = data
        self._read_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.exchange is exchange:  # else the request has gone to another pod meanwhile
                self._broken(exchange, error)
            return
        if self.exchange is exchange:
            self._deliver(exchange)

    def eof_received(self) -> None:
        if self.exchange is not None and self._until_eof:
            self.complete = True
            self._deliver(self.exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        self._pool.lost(self)
        del self._parser  # it holds this object's methods
        if exchange is not None:
            exchange.lost()

    def _deliver(self, exchange: Asker) -> None:
        pieces, complete = self.pieces, self.complete
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._head is not None:
            self._learn(self._head)
        if complete:
            self.exchange = None
            self._release()
        exchange.forward(body, complete)

    def _pass_known(self, known: KnownHead[ResponseHead], exchange: Asker, data: bytes) -> bool:
        """Passes on a whole response whose head was there before."""
        found = known.match(data)
        if found is None or sum(found) != len(data):
            return False
        start, known.head.length = found
        exchange.begin(known.head)
        if self.exchange is exchange:
            self.exchange = None
            self._release()
            exchange.forward(data[start:], last=True)
        return True

    def _learn(self, head: ResponseHead) -> None:
        """Keeps the head of a response that came whole in one read, and that more may follow."""
        beginning, self._head, self._beginning = self._beginning, None, b""
        if head.length is not None and self._keep_alive and len(beginning) == self._read_bytes:
            self._known = KnownHead.learn(beginning, head.length, len(beginning), head)

    def _release(self) -> None:
        if self._keep_alive and not self.transport.is_closing():
            if self._paused:
                self.resume()
            self.reused = _REUSED
            self._pool.release(self)
        else:
            self.transport.close()

    def _broken(self, exchange: Asker, error: Exception) -> None:
        cause = error.__context__
        self.abandon()
        exchange.fail(
            cause
            if isinstance(cause, RouterError)
            else BadUpstreamError(f"The model's pod did not answer in HTTP: {error}.")
        )

    # --- called by the parser; what is raised here comes out of `feed_data`

    def on_message_begin(self) -> None:
        if self.complete:
            raise BadUpstreamError("The model's pod sent more than one response.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise BadUpstreamError(f"The head of the pod's response is larger than {_MAX_HEAD_BYTES} bytes.")
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers, self._head_bytes = self._headers, [], 0
        if status < 200 or self.exchange is None:  # an interim response concerns this hop only
            return
        # Only here: after the end of the message the parser always says no.
        self._keep_alive = self._parser.should_keep_alive()
        self._head = head = ResponseHead(status, headers)
        self._until_eof = not head.sized and not head.chunked
        self.exchange.begin(head)

    def on_message_complete(self) -> None:
        self.complete = self._parser.get_status_code() >= 200
        self._headers.clear()  # trailers are dropped
        self._head_bytes = 0
