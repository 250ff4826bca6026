"""One request's life: sent to a pod, or to another while nothing has begun, its response passed on or cut.

start -> try -> (connect ->) sent -> begin -> forward ... forward(last) -> done
          ^                    |        |
          +--- next pod -------+--------+   refused, reset before the head, 503: nothing has gone out yet
After `begin` there is no retry: a failure becomes an error event (event streams) and an unclean end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from octavo_router.endpoints import Endpoint
from octavo_router.errors import BadUpstreamError, NoReadyPodError, RouterError, UpstreamTimeoutError
from octavo_router.proxy.account import Account
from octavo_router.proxy.heads import ResponseHead, upstream_head
from octavo_router.proxy.passage import Passage, passage_of
from octavo_router.proxy.reader import Request
from octavo_router.proxy.tries import Tries
from octavo_router.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from octavo_router.proxy.client import ClientConnection
    from octavo_router.proxy.gateway import Gateway

_UNAVAILABLE = 503
_CLIENT_LEFT = 499  # in the figures only, as nginx counts it


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_account",
        "_client",
        "_connecting",
        "_figures",
        "_gateway",
        "_held",
        "_passage",
        "_patience",
        "_renewed",
        "_request",
        "_since",
        "_status",
        "_tries",
        "_upstream",
        "request_id",
    )

    def __init__(
        self,
        gateway: Gateway,
        client: ClientConnection,
        request: Request,
        request_id: bytes,
        tries: Tries,
        account: Account | None,
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._request = request
        self.request_id = request_id
        self._tries = tries
        self._account = account
        self._figures = tries.route.figures
        self._since = gateway.now()
        self._patience = gateway.upstream_timeout  # for which the pod may be silent
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._passage: Passage | None = None  # once the response has begun
        self._status = 0
        self._held = False  # waits for the first pod of a model that sleeps
        self._renewed = False

    def start(self) -> None:
        """Sends the request, or answers why not."""
        if self._tries.features.asked.streams:
            self._patience = self._gateway.settings.first_byte_timeout
        self._tries.route.requests += 1
        self._figures.in_flight += 1
        self._try(self._since)

    # --- tries

    def _try(self, now: float) -> None:
        """Sends to the next pod, or answers that there is none."""
        endpoint = self._tries.next(now)
        if endpoint is not None:
            self._reach(endpoint, self._gateway.pool.take(endpoint), now)
        elif self._may_be_held():
            self._hold(now)
        else:
            self._refuse(self._tries.why_none())

    def _may_be_held(self) -> bool:
        route = self._tries.route
        room = route.holds < self._gateway.settings.hold_requests
        return route.deployment.wakes and not route.ready and room

    def _hold(self, now: float) -> None:
        self._held = True
        self._tries.start_anew()
        self._client.deadline = now + self._gateway.settings.hold_timeout
        self._tries.route.hold(self)
        self._gateway.registry.on_wanted(self._tries.route)

    def woken(self) -> None:
        """There is a pod now."""
        self._held = False
        self._try(self._gateway.now())

    def _reach(self, endpoint: Endpoint, idle: UpstreamConnection | None, now: float) -> None:
        self._client.deadline = now + self._patience
        if idle is not None:
            self.connected(idle)
        else:
            self._connecting = self._gateway.pool.connect(endpoint, self)

    def connected(self, upstream: UpstreamConnection) -> None:
        """Sends the request on a connection that is ready."""
        self._connecting = None
        self._upstream = upstream
        head, body = self._request.head, self._request.body
        extra = self._client.forwarded_for() if self._gateway.settings.forwarded else b""
        if self._account is not None:
            extra += self._account.trace_line
        upstream.send(
            self, upstream_head(head, upstream.endpoint.host_header, len(body), self.request_id, extra), body
        )

    def unconnected(self) -> None:
        """The pod could not be connected to."""
        self._connecting = None
        self._try_next()

    def _try_next(self) -> None:
        now = self._gateway.now()
        self._upstream = None
        self._renewed = False
        self._tries.fail(now)
        self._try(now)

    # --- the upstream connection's side

    def begin(self, head: ResponseHead) -> None:
        """The head of the response is here: pass it on, or go to another pod if this one is draining."""
        gateway, now = self._gateway, self._gateway.now()
        if head.status == _UNAVAILABLE and self._tries.may_go_on(now):
            self._abandon()
            self._try_next()
            return
        self._request.drop_body()
        self._tries.answered(head.status, now)
        self._status = head.status
        self._figures.answered(head.status)
        self._figures.first_byte(now - self._since)
        if self._account is not None:
            self._account.first_byte(now)
        self._passage = passage = passage_of(
            head, self._request.head, self.request_id, keep_alive=not gateway.closing
        )
        if passage.events:
            self._patience = gateway.settings.chunk_timeout

    def forward(self, body: bytes, last: bool) -> None:
        """Passes on what one read brought."""
        passage, client = self._passage, self._client
        if passage is None:  # it was only a part of the head, or an interim response
            return
        if self._account is not None:
            self._account.feed(body)
        out = passage.encoded(body, last)
        if last:
            self._upstream = None  # others may have it already: a client that reads slowly must not pause it
            client.transport.write(out)
            self._end()
            client.finished(passage.keep_alive)
        elif out:
            client.deadline = self._gateway.now() + self._patience
            client.transport.write(out)

    def lost(self) -> None:
        """The connection is gone, and the response is not complete."""
        upstream = self._upstream
        if self._passage is not None:
            self._cut(self._passage, BadUpstreamError("The model's pod ended the response in its midst."))
        elif upstream is not None and upstream.reused and not self._renewed:
            # It closed an idle connection just as the request went out: no fault of the pod.
            self._renewed = True
            self._upstream = None
            self._reach(upstream.endpoint, None, self._gateway.now())
        else:
            self._try_next()

    def fail(self, error: RouterError) -> None:
        """The pod's answer is of no use; the connection is closed already."""
        if self._passage is not None and not self._passage.head:
            self._cut(self._passage, error)
        else:
            self._refuse(error)

    # --- the client's side

    def pause(self) -> None:
        """The client does not read: neither does the router."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
            self._client.deadline = self._gateway.now() + self._patience

    def cancel(self) -> None:
        """The client has left."""
        if self._passage is None:
            self._status = _CLIENT_LEFT
            self._figures.answered(_CLIENT_LEFT)
        self._gateway.figures.cancelled += 1
        self._abandon()
        self._end()

    def expire(self) -> None:
        """The pod has been silent for too long, or none has come. Before a stream begins, another may do."""
        asked = self._tries.features.asked
        if self._held:
            seconds = self._gateway.settings.hold_timeout
            self._refuse(
                NoReadyPodError(
                    f"The model {asked.model!r} was asleep and has not started in {seconds:g} seconds."
                )
            )
            return
        self._abandon()
        if self._passage is None and asked.streams and self._tries.may_go_on(self._gateway.now()):
            self._try_next()
        else:
            silence = f"The model's pod has sent nothing for {self._patience:g} seconds."
            self.fail(UpstreamTimeoutError(silence))

    # --- ends

    def _abandon(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._upstream is not None:
            self._upstream.abandon()

    def _end(self) -> None:
        if self._held:
            self._held = False
            self._tries.route.let_go(self)
        if self._account is not None:
            self._close_account(self._account)
        self._tries.leave()
        self._upstream = None
        self._figures.in_flight -= 1
        self._request.drop_body()

    def _close_account(self, account: Account) -> None:
        tries, now = self._tries, self._gateway.now()
        pod = tries.endpoint.address if tries.endpoint is not None else ""
        account.close(self._status, self._figures.label, pod, tries.count, now)

    def _refuse(self, error: RouterError) -> None:
        """Answers with an error: nothing has reached the client yet."""
        if self._passage is None:
            self._status = error.status
            self._figures.answered(error.status)
        self._end()
        self._client.refuse(error, self._request.head, self.request_id)

    def _cut(self, passage: Passage, error: RouterError) -> None:
        """Ends a response that has begun so that nobody takes it for complete."""
        self._gateway.figures.cut_streams += 1
        self._end()
        self._client.cut(passage.cut(error), reset=passage.ends_by_reset)
