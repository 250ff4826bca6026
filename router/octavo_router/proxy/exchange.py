"""One request's life: pick a pod, send, retry what has not begun, pass the response on, end or cut it.

start -> try -> (connect ->) sent -> begin -> forward ... forward(last) -> done
          ^                    |        |
          +--- next pod -------+--------+   refused, reset before the head, 503: nothing has gone out yet
After `begin` there is no retry: a failure becomes an error event (event streams) and an unclean end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from octavo_router.endpoints import Endpoint, Route
from octavo_router.errors import (
    BadUpstreamError,
    NoReadyPodError,
    RouterError,
    UnreachableError,
    UpstreamTimeoutError,
)
from octavo_router.prompt import Asked, Features, read_body, renamed
from octavo_router.proxy.account import Account
from octavo_router.proxy.heads import LAST_CHUNK, Framing, ResponseHead, error_event, upstream_head
from octavo_router.proxy.reader import Request
from octavo_router.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from octavo_router.proxy.client import ClientConnection
    from octavo_router.proxy.gateway import Gateway

_UNAVAILABLE = 503
_FAULTS = (500, 502, 504)
_ANSWERED = Features(Asked(""))
_CLIENT_LEFT = 499  # in the figures only, as nginx counts it


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_account",
        "_begun",
        "_chunked",
        "_client",
        "_connecting",
        "_endpoint",
        "_features",
        "_figures",
        "_framing",
        "_gateway",
        "_head_out",
        "_held",
        "_keep_alive",
        "_patience",
        "_renewed",
        "_request",
        "_route",
        "_since",
        "_status",
        "_stream",
        "_tried",
        "_upstream",
        "request_id",
    )

    _route: Route
    _features: Features

    def __init__(
        self,
        gateway: Gateway,
        client: ClientConnection,
        request: Request,
        request_id: bytes,
        account: Account | None,
    ) -> None:
        self._gateway = gateway
        self._account = account
        self._patience = gateway.upstream_timeout  # for which the pod may be silent
        self._status = 0
        self._client = client
        self._request = request
        self._figures = gateway.figures.unrouted
        self._since = gateway.now()
        self._endpoint: Endpoint | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._tried: list[Endpoint] = []
        self._head_out = b""
        self._held = False  # waits for the first pod of a model that sleeps
        self._begun = self._renewed = self._chunked = self._stream = self._keep_alive = False
        self._framing = Framing.LENGTH
        self.request_id = request_id

    def start(self) -> None:
        """Routes the request and sends it, or answers why not."""
        request, gateway = self._request, self._gateway
        try:
            asked = read_body(request.body)
            self._features = Features(asked, request.head.headers, gateway.session_header)
            self._route = route = gateway.registry.route(self._features, self._permitted(asked))
        except RouterError as error:
            self._figures.in_flight += 1
            self._refuse(error)
            return
        if not route.deployment.answers_to(asked.model):
            request.replace_body(renamed(request.body, route.deployment.key))
        if asked.streams:
            self._patience = gateway.settings.first_byte_timeout
        route.requests += 1
        self._figures = route.figures
        self._figures.in_flight += 1
        self._try(self._since)

    def _permitted(self, asked: Asked) -> str | None:
        """The namespace that may be asked for; None: all. Raises TokenRateError."""
        account = self._account
        if account is None:
            return None
        account.asked(asked.model, len(self._request.body), streams=asked.streams)
        if account.key is not None:
            account.key.check_rate(self._since)
        return account.namespace

    # --- tries

    def _try(self, now: float) -> None:
        """Sends to the next pod, or answers that there is none."""
        gateway = self._gateway
        candidates = self._route.candidates(now, self._tried)
        if not candidates and self._may_be_held():
            self._hold(now)
            return
        if not candidates or (self._tried and not self._may_retry(now)):
            self._refuse(self._none_left())
            return
        self._endpoint = endpoint = self._route.policy.choose(candidates, self._features)
        endpoint.enter(now)
        if self._tried:
            gateway.figures.retries += 1
        self._reach(endpoint, gateway.pool.take(endpoint), now)

    def _may_be_held(self) -> bool:
        route, settings = self._route, self._gateway.settings
        return route.deployment.sleeps and not route.ready and route.holds < settings.hold_requests

    def _hold(self, now: float) -> None:
        self._held = True
        self._tried.clear()
        self._client.deadline = now + self._gateway.settings.hold_timeout
        self._route.hold(self)
        self._gateway.registry.on_wanted(self._route)

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
        endpoint, now = self._leave_endpoint(), self._gateway.now()
        if endpoint is not None:
            self._gateway.figures.ejections += self._route.failed(endpoint, now)
            self._tried.append(endpoint)
        self._try(now)

    def _may_retry(self, now: float) -> bool:
        return len(self._tried) < self._gateway.settings.max_tries and self._route.may_retry(now)

    def _leave_endpoint(self) -> Endpoint | None:
        endpoint, self._endpoint, self._upstream = self._endpoint, None, None
        if endpoint is not None:
            endpoint.leave()
        return endpoint

    def _has_another(self) -> bool:
        if len(self._tried) + 1 >= self._gateway.settings.max_tries:
            return False
        others = self._route.candidates(self._gateway.now(), self._tried)
        return any(e is not self._endpoint for e in others)

    def _none_left(self) -> RouterError:
        model = self._features.asked.model
        if self._route.deployment.sleeps and not self._route.ready:
            return NoReadyPodError(
                f"The model {model!r} is starting, and {self._route.holds} requests wait for it already; "
                "try again in a few seconds."
            )
        if not self._tried:
            return NoReadyPodError(
                f"The model {model!r} has no ready pod at the moment; try again in a few seconds."
            )
        return UnreachableError(
            f"No pod of the model {model!r} could be reached ({len(self._tried)} tried); try again."
        )

    # --- the upstream connection's side

    def begin(self, head: ResponseHead) -> None:
        """The head of the response is here: pass it on, or go to another pod if this one is draining."""
        if head.status == _UNAVAILABLE and self._has_another():
            self._abandon()
            self._try_next()
            return
        request = self._request.head
        self._request.drop_body()
        self._judge(head.status)
        self._begun = True
        self._status = head.status
        self._figures.answered(head.status)
        self._figures.first_byte(self._gateway.now() - self._since)
        self._framing = framing = _framing(head, request.http10)
        self._keep_alive = request.keep_alive and framing != Framing.CLOSE and not self._gateway.closing
        self._chunked = framing == Framing.CHUNKED
        self._stream = not head.sized and head.event_stream
        if self._stream:
            self._patience = self._gateway.settings.chunk_timeout
        if self._account is not None:
            self._account.first_byte(self._gateway.now())
        self._head_out = head.to_client(
            framing, keep_alive=self._keep_alive, http10=request.http10, request_id=self.request_id
        )

    def _judge(self, status: int) -> None:
        """Tells the pod's breaker; what the request held of the body is free from here on."""
        endpoint = self._endpoint
        self._features = _ANSWERED
        if endpoint is None or (status < 500 and endpoint.breaker.closed):
            return
        if status < 500:
            self._route.succeeded(endpoint)
        elif status in _FAULTS:
            self._gateway.figures.ejections += self._route.faulted(endpoint, self._gateway.now())

    def forward(self, body: bytes, last: bool) -> None:
        """Passes on what one read brought: one write, the head included when it is new."""
        out = self._head_out
        if out:
            self._head_out = b""
        if self._account is not None:
            self._account.feed(body)
        if not self._chunked:
            out = out + body if out else body
        elif body:
            out = b"%b%x\r\n%b\r\n%b" % (out, len(body), body, LAST_CHUNK if last else b"")
        elif last:
            out += LAST_CHUNK
        client = self._client
        if last:
            client.transport.write(out)
            self._end()
            client.finished(self._keep_alive)
        elif out:
            client.deadline = self._gateway.now() + self._patience
            client.transport.write(out)

    def lost(self) -> None:
        """The connection is gone, and the response is not complete."""
        upstream = self._upstream
        if self._begun:
            self._cut(BadUpstreamError("The model's pod ended the response in its midst."))
        elif upstream is not None and upstream.reused and not self._renewed:
            # It closed an idle connection just as the request went out: no fault of the pod.
            self._renewed = True
            self._upstream = None
            self._reach(upstream.endpoint, None, self._gateway.now())
        else:
            self._try_next()

    def fail(self, error: RouterError) -> None:
        """The pod's answer is of no use; the connection is closed already."""
        if self._begun and not self._head_out:
            self._cut(error)
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
        if not self._begun:
            self._status = _CLIENT_LEFT
            self._figures.answered(_CLIENT_LEFT)
        self._gateway.figures.cancelled += 1
        self._abandon()
        self._end()

    def expire(self) -> None:
        """The pod has been silent for too long, or none has come. Before a stream begins, another may do."""
        if self._held:
            seconds = self._gateway.settings.hold_timeout
            model = self._features.asked.model
            self._refuse(
                NoReadyPodError(f"The model {model!r} was asleep and has not started in {seconds:g} seconds.")
            )
            return
        if not self._begun and self._features.asked.streams and self._has_another():
            self._abandon()
            self._try_next()
            return
        self._abandon()
        self.fail(UpstreamTimeoutError(f"The model's pod has sent nothing for {self._patience:g} seconds."))

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
            self._route.let_go(self)
        endpoint = self._leave_endpoint()
        if self._account is not None:
            tries = len(self._tried) + (endpoint is not None)
            pod = endpoint.address if endpoint is not None else ""
            self._account.close(self._status, self._figures.label, pod, tries, self._gateway.now())
        self._figures.in_flight -= 1
        self._request.drop_body()

    def _refuse(self, error: RouterError) -> None:
        """Answers with an error: nothing has reached the client yet."""
        if not self._begun:
            self._status = error.status
            self._figures.answered(error.status)
        self._end()
        self._client.refuse(error, self._request.head, self.request_id)

    def _cut(self, error: RouterError) -> None:
        """Ends a response that has begun so that nobody takes it for complete: no last chunk, no [DONE]."""
        self._gateway.figures.cut_streams += 1
        self._end()
        event = error_event(error) if self._stream else b""
        if event and self._chunked:
            event = b"%x\r\n%b\r\n" % (len(event), event)
        reset = not self._stream and self._framing == Framing.CLOSE
        self._client.cut(self._head_out + event, reset=reset)


def _framing(head: ResponseHead, http10: bool) -> int:
    if head.sized:
        return Framing.LENGTH
    return Framing.CLOSE if http10 else Framing.CHUNKED
