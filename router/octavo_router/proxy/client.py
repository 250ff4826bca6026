"""The client's side of the data path: one connection, its requests answered one at a time and in order."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from math import inf
from typing import TYPE_CHECKING, cast

from octavo_router.errors import RequestTimeoutError, RouterError
from octavo_router.proxy.account import Account
from octavo_router.proxy.exchange import Exchange
from octavo_router.proxy.heads import CONTINUE, RequestHead, error_response, own_response
from octavo_router.proxy.local import answer
from octavo_router.proxy.reader import Phase, Request, RequestReader

if TYPE_CHECKING:
    from octavo_router.proxy.gateway import Gateway

_LINGER_S = 2.0  # the rest of a refused request is read and dropped, or a reset could overtake the answer
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ClientConnection(asyncio.Protocol):
    """One connection of a client.

    Reading goes on while a response runs, because that is how a client that leaves is noticed; it stops only
    while a further, pipelined request waits whole. A client that closes its sending half counts as gone.
    """

    __slots__ = (
        "_account",
        "_closing",
        "_gateway",
        "_head_since",
        "_lingering",
        "_looping",
        "_peer",
        "_reader",
        "_waiting",
        "deadline",
        "exchange",
        "paused",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reader = RequestReader(
            gateway.settings,
            gateway.figures,
            self._received,
            self._invite_body,
            self._admit if gateway.watchful else None,
        )
        self._account: Account | None = None  # of a request whose body is still to come
        self._waiting: deque[tuple[Request, Account | None] | bytes] = deque()  # bytes: the last answer
        self._closing = self._lingering = self._looping = self.paused = False
        self._peer = b""
        self._head_since = 0.0  # when a head began that did not come whole at once
        self.deadline = inf  # loop time at which `expire` is due
        self.exchange: Exchange | None = None

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0].encode() if isinstance(peer, tuple) else b""
        self.deadline = self._gateway.now() + self._gateway.settings.header_timeout
        self._gateway.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        reader = self._reader
        before = reader.phase
        try:
            reader.feed(data)
        except RouterError as error:
            self._refuse_the_rest(error, before)
            return
        if self.exchange is None and (reader.phase == Phase.BODY or reader.phase != before):
            self._await_request()

    def eof_received(self) -> None:
        """The client has left: the transport closes once it has written what it holds."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._gateway.left(self)
        self._drop_waiting()
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            exchange.cancel()
        self._reader.close()

    def pause_writing(self) -> None:
        self.paused = True
        self.deadline = self._gateway.now() + self._gateway.settings.stall_timeout
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self.exchange is not None:
            self.exchange.resume()
        elif not self._closing:
            self._next()

    # --- the gateway's side

    def expire(self) -> None:
        """The deadline has passed."""
        if self.paused or self._lingering or self._closing:
            self.transport.abort()
        elif self.exchange is not None:
            self.exchange.expire()
        elif self._reader.phase == Phase.IDLE:
            self._close()
        else:
            error = RequestTimeoutError("The request did not arrive in time; send it faster.")
            self._refuse_the_rest(error, self._reader.phase)

    def close_if_idle(self) -> None:
        """Closes a connection that waits for a further request."""
        if self.exchange is None and self._reader.phase == Phase.IDLE and not self._waiting:
            self._close()

    # --- requests, in order

    def _admit(self, head: RequestHead) -> None:
        """Asks for the API key before a body is invited or kept. Raises WrongKeyError, TokenRateError."""
        gateway = self._gateway
        self._account = account = gateway.open_account(head, head.request_id or gateway.new_id())
        gateway.authorize(head, account)
        if account.key is not None and head.method == b"POST":  # no other takes tokens
            account.key.check_rate(gateway.now())

    def _received(self, request: Request) -> None:
        account = self._account
        if account is not None:
            self._account = None
        if self.exchange is None and not self._waiting and not self.paused and not self._closing:
            self._serve(request, account)
        elif self._closing:
            request.drop_body()
        else:
            self._waiting.append((request, account))
            self.transport.pause_reading()

    def _next(self) -> None:
        """Serves what waits, or waits for more."""
        if not self._waiting and not self._lingering:
            self._await_request()
            return
        if self._looping:
            return
        self._looping = True
        while self._waiting and self.exchange is None and not self.paused and not self._closing:
            item = self._waiting.popleft()
            if not self._waiting:
                self.transport.resume_reading()
            if isinstance(item, bytes):
                self._refuse_and_linger(item)
            else:
                self._serve(*item)
        self._looping = False
        if self.exchange is None and not self._closing and not self._lingering:
            self._await_request()

    def _serve(self, request: Request, account: Account | None) -> None:
        """Sends a request to a pod, or answers it. `account`: of one that has been admitted already."""
        head, gateway = request.head, self._gateway
        if account is None:
            request_id = head.request_id or gateway.new_id()
        else:
            request_id = account.request_id
            account.since(gateway.now())
        try:
            if gateway.watchful and account is None:
                account = gateway.open_account(head, request_id)
                gateway.authorize(head, account)
            body = answer(head, gateway.registry, account.namespace if account is not None else None)
            if body is None:
                tries = gateway.route(request, account)
        except RouterError as error:
            request.drop_body()
            gateway.figures.unrouted.answered(error.status)
            gateway.note(account, error.status)
            self.refuse(error, head, request_id)
            return
        except BaseException:  # a defect; what the body counts for must not stay
            request.drop_body()
            raise
        if body is None:
            self.exchange = Exchange(gateway, self, request, request_id, tries, account)
            self.exchange.start()
            return
        request.drop_body()
        gateway.figures.unrouted.answered(200)
        gateway.note(account, 200)
        keep_alive = head.keep_alive and not gateway.closing
        self.transport.write(own_response(200, body, request_id, keep_alive=keep_alive, http10=head.http10))
        self.finished(keep_alive)

    def _invite_body(self) -> None:
        if self.exchange is None and not self._waiting:
            self.transport.write(CONTINUE)

    def _await_request(self) -> None:
        settings, phase, now = self._gateway.settings, self._reader.phase, self._gateway.now()
        if phase == Phase.HEAD:
            self._head_since = now
        if phase == Phase.IDLE:
            allowed = settings.keepalive_timeout
        else:
            allowed = settings.header_timeout if phase == Phase.HEAD else settings.body_timeout
        self.deadline = now + allowed

    # --- the exchange's side

    def forwarded_for(self) -> bytes:
        """The header line that tells the pod who asks; it adds to those that came with the request."""
        return b"x-forwarded-for: %b\r\n" % self._peer if self._peer else b""

    def finished(self, keep_alive: bool) -> None:
        """The response is written whole."""
        self.exchange = None
        gateway = self._gateway
        if not keep_alive:
            self._close()
        elif self._waiting or self._lingering or self._reader.phase != Phase.IDLE:
            self._next()
        elif gateway.closing:
            self._close()
        else:
            self.deadline = gateway.now() + gateway.keepalive_timeout

    def refuse(self, error: RouterError, head: RequestHead, request_id: bytes) -> None:
        """Answers a whole request with an error."""
        keep_alive = head.keep_alive and not self._gateway.closing
        self.transport.write(_refusal(error, head, request_id, keep_alive=keep_alive))
        self.finished(keep_alive)

    def cut(self, last: bytes, *, reset: bool) -> None:
        """Ends a response in its midst; `reset` where the end of the connection alone would look complete."""
        self.exchange = None
        if last:
            self.transport.write(last)
        elif reset and (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    # --- ends

    def _refuse_the_rest(self, error: RouterError, before: int) -> None:
        """What follows cannot be read: answers what came before, then this error, then closes.

        `before`: the reader's phase before it read what is refused.
        """
        gateway, head = self._gateway, self._reader.unfinished()
        account, self._account = self._account, None
        request_id = account.request_id if account is not None else head.request_id or gateway.new_id()
        if gateway.watchful and account is None:
            account = gateway.open_account(head, request_id)
            if before == Phase.HEAD:
                account.since(self._head_since)
        gateway.figures.unrouted.answered(error.status)
        gateway.note(account, error.status)
        self._lingering = True
        self._waiting.append(_refusal(error, head, request_id, keep_alive=False))
        self._next()

    def _refuse_and_linger(self, response: bytes) -> None:
        self.transport.write(response)
        self.deadline = self._gateway.now() + _LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _close(self) -> None:
        self._closing = True
        self._drop_waiting()
        self.deadline = self._gateway.now() + self._gateway.settings.stall_timeout
        self.transport.close()

    def _drop_waiting(self) -> None:
        for item in self._waiting:
            if not isinstance(item, bytes):
                item[0].drop_body()
        self._waiting.clear()


def _refusal(error: RouterError, head: RequestHead, request_id: bytes, *, keep_alive: bool) -> bytes:
    response = error_response(error, request_id, keep_alive=keep_alive, http10=head.http10)
    return response[: response.index(b"\r\n\r\n") + 4] if head.method == b"HEAD" else response
