"""What a response used, read from its end as it passes by. Pure."""

from __future__ import annotations

import re

import msgspec

_TAIL_BYTES = 2048  # the usage is the last field of a response and the last event but [DONE] of a stream
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


_decode = msgspec.json.Decoder(Usage).decode


class UsageTail:
    """Keeps the end of one response, and counts its events."""

    __slots__ = ("_events", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._events = 0

    def feed(self, piece: bytes) -> None:
        self._events += piece.count(b"data: ")
        self._tail = piece if len(piece) >= _TAIL_BYTES else (self._tail + piece)[-_TAIL_BYTES:]

    def read(self) -> Usage | None:
        """The usage that the response tells; None when it tells none."""
        found = _USAGE.findall(self._tail)
        try:
            return _decode(found[-1]) if found else None
        except msgspec.MsgspecError:
            return None

    def guess(self, prompt_bytes: int) -> Usage:
        """For a stream that tells none: a token an event, and one for four bytes of the request."""
        return Usage(prompt_bytes // 4, self._events)
