"""The usage at a response's end, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.usage import Usage, UsageTail

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
WHOLE = json.dumps({"choices": [{"message": {"content": 'a "usage": {} b' * 500}}], "usage": USAGE}).encode()
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
STREAM = (
    EVENT * 99 + b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
)


def fed(data: bytes, *cuts: int) -> UsageTail:
    tail, start = UsageTail(), 0
    for cut in [*sorted(cuts), len(data)]:
        tail.feed(data[start:cut])
        start = max(start, cut)
    return tail


@given(st.sampled_from([WHOLE, STREAM]), st.lists(st.integers(0, 9000), max_size=20))
def test_it_is_found_wherever_the_pieces_end(data: bytes, cuts: list[int]) -> None:
    assert fed(data, *[min(cut, len(data)) for cut in cuts]).read() == Usage(7, 3)


@pytest.mark.parametrize(
    "data", [b"", b"{}", EVENT * 9, b'{"usage": null}', b'{"usage": 3}', b'{"usage": {"prompt_tokens": "x"}}']
)
def test_without_one_there_is_none(data: bytes) -> None:
    assert fed(data).read() is None


def test_a_stream_without_one_is_guessed_by_its_events() -> None:
    assert fed(EVENT * 9, 100).guess(400, streams=True) == Usage(100, 9)


def test_another_response_without_one_is_guessed_by_its_bytes() -> None:
    assert fed(b"data: " * 1000, 100).guess(400, streams=False) == Usage(100, 1500)
