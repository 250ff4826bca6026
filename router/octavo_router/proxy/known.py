"""Heads that were parsed before. Pure.

A parser is a function of the bytes since a message's start: the same head means the same again. Clients
and pods send the same head over and over on a connection, but for the digits of its Content-Length; so a head
that the strict parser has read once is compared from then on, not parsed. What differs is for the parser.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

# Up to nine digits: no length that overflows or that the parser would refuse has so few.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
H = TypeVar("H")


class KnownHead(Generic[H]):
    """A head as bytes, less the digits of its length, and what the parser made of it."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, before: bytes, after: bytes, head: H) -> None:
        self._before = before
        self._after = after
        self.head = head

    @classmethod
    def learn(cls, data: bytes, body_bytes: int, message_bytes: int, head: H) -> KnownHead[H] | None:
        """What is to be known of a message that a parser has read whole, or None.

        `data` is its beginning; what the parser said and what was counted must agree on where the head ends.
        """
        size = message_bytes - body_bytes
        found = _LENGTH.search(data, 0, size)
        if found is None or data.find(b"\r\n\r\n", 0, size) != size - 4:
            return None
        return cls(data[: found.start(1)], data[found.end(1) : size], head)

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Where the body starts and how long it is, if `data` begins with this head whole; else None."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        at = len(before)
        end = data.find(b"\r", at, at + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(after, end):
            return None
        digits = data[at:end]
        return (end + len(after), int(digits)) if digits.isdigit() else None
