"""W3C trace contexts: which are valid, and what a new one looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.trace import new_trace, trace_of

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
VALID = b"00-%b-%b-01" % (TRACE, PARENT)


def found(*values: bytes) -> bytes | None:
    return trace_of([(b"Host", b"x"), *[(b"TraceParent", value) for value in values]])


def test_a_valid_context_has_its_trace() -> None:
    assert found(VALID) == TRACE
    assert found(VALID.replace(b"00-", b"cc-") + b"-of-the-future") == TRACE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        VALID[:-1],
        VALID.upper(),
        VALID.replace(b"00-", b"ff-", 1),
        b"00-%b-%b-01" % (b"0" * 32, PARENT),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
    ],
)
def test_ignored_is(value: bytes) -> None:
    assert found(value) is None


def test_none_and_two_are_no_context() -> None:
    assert found() is found(VALID, VALID) is None


@given(st.binary(min_size=24, max_size=24).filter(lambda r: any(r[:16]) and any(r[16:])))
def test_a_new_one_is_valid(random: bytes) -> None:
    trace, line = new_trace(random)
    name, _, value = line.rstrip(b"\r\n").partition(b": ")
    assert trace_of([(name, value)]) == trace
