"""The W3C trace context of requests, passed on or begun here: https://www.w3.org/TR/trace-context/ (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_VALID = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
CONTEXT = frozenset((b"traceparent", b"tracestate"))


def trace_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The trace id of a request; None when it has no context, or one that is to be ignored."""
    found = [value for name, value in headers if name.lower() == b"traceparent"]
    valid = _VALID.fullmatch(found[0]) if len(found) == 1 else None
    return valid[1] if valid else None


def new_trace(random: bytes) -> tuple[bytes, bytes]:
    """A trace id, and the header line that begins it, from 24 random bytes. Marked as sampled."""
    trace = random[:16].hex().encode()
    return trace, b"traceparent: 00-%b-%b-01\r\n" % (trace, random[16:24].hex().encode())
