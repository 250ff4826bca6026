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
    """Keeps the end of one response, and counts its events and bytes."""

    __slots__ = ("_bytes", "_events", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._bytes = self._events = 0

    def feed(self, piece: bytes) -> None:
        self._bytes += len(piece)
        self._events += piece.count(b"data: ")
        self._tail = piece if len(piece) >= _TAIL_BYTES else (self._tail + piece)[-_TAIL_BYTES:]

    def read(self) -> Usage | None:
        """The usage that the response tells; None when it tells none."""
        found = _USAGE.findall(self._tail)
        try:
            return _decode(found[-1]) if found else None
        except msgspec.MsgspecError:
            return None

    def guess(self, prompt_bytes: int, *, streams: bool) -> Usage:
        """For a response that tells none: one token for four bytes, but an event of a stream is one."""
        return Usage(prompt_bytes // 4, self._events if streams else self._bytes // 4)
