"""How a pod's response goes on to the client: its head, its framing, its end when it is cut. Pure."""

from __future__ import annotations

import msgspec

from octavo_router.errors import RouterError
from octavo_router.proxy.heads import LAST_CHUNK, Framing, RequestHead, ResponseHead, error_event


class Passage(msgspec.Struct, gc=False):
    """One response that has begun."""

    head: bytes  # until it has gone out
    framing: int
    keep_alive: bool
    events: bool  # an event stream

    def encoded(self, body: bytes, last: bool) -> bytes:
        """What to write for a piece of the body: one write, the head included when it is new."""
        out = self.head
        if out:
            self.head = b""
        if self.framing != Framing.CHUNKED:
            return out + body if out else body
        if body:
            return b"%b%x\r\n%b\r\n%b" % (out, len(body), body, LAST_CHUNK if last else b"")
        return out + LAST_CHUNK if last else out

    def cut(self, error: RouterError) -> bytes:
        """What to write last so that nobody takes the response for complete: no last chunk, no [DONE]."""
        event = error_event(error) if self.events else b""
        if event and self.framing == Framing.CHUNKED:
            event = b"%x\r\n%b\r\n" % (len(event), event)
        return self.head + event

    @property
    def ends_by_reset(self) -> bool:
        """Whether the end of the connection alone would look complete."""
        return self.framing == Framing.CLOSE and not self.events


def passage_of(head: ResponseHead, request: RequestHead, request_id: bytes, *, keep_alive: bool) -> Passage:
    """How this response goes on. `keep_alive`: whether the router would keep the client's connection."""
    if head.sized:
        framing: int = Framing.LENGTH
    else:
        framing = Framing.CLOSE if request.http10 else Framing.CHUNKED
    kept = keep_alive and request.keep_alive and framing != Framing.CLOSE
    return Passage(
        head.to_client(framing, keep_alive=kept, http10=request.http10, request_id=request_id),
        framing,
        kept,
        not head.sized and head.event_stream,
    )
