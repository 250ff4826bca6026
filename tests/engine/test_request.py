"""Limits and stop ids that a request derives from its parameters."""

from __future__ import annotations

import pytest
from tests.engine.simulation import request

from octavo_engine.request import Request, Sequence

EOS = frozenset({2})


@pytest.mark.parametrize(
    ("params", "max_length"),
    [
        pytest.param({"max_tokens": 5}, 15, id="max_tokens counts output tokens"),
        pytest.param({"max_tokens": None}, 100, id="without max_tokens the model's length is the limit"),
        pytest.param({"max_tokens": 500}, 100, id="the model's length is never exceeded"),
    ],
)
def test_max_length(params: dict[str, object], max_length: int) -> None:
    assert Request(request("a", range(10), **params), (0, 0), 100, EOS).max_length == max_length


@pytest.mark.parametrize(
    ("params", "stop_ids"),
    [
        pytest.param({"ignore_eos": False}, {2}, id="eos stops"),
        pytest.param({"ignore_eos": True}, set(), id="ignore_eos leaves it out"),
        pytest.param(
            {"ignore_eos": True, "stop_token_ids": (7, 2)}, {7, 2}, id="stop ids hold in spite of ignore_eos"
        ),
        pytest.param({"ignore_eos": False, "stop_token_ids": (7,)}, {7, 2}, id="stop ids add to eos"),
    ],
)
def test_stop_ids(params: dict[str, object], stop_ids: set[int]) -> None:
    assert Request(request("a", [1], **params), (0, 0), 100, EOS).stop_ids == stop_ids


def test_sequences_stand_by_priority_then_arrival_then_index() -> None:
    orders = [((1, 0), 0), ((0, 2), 1), ((0, 2), 0), ((0, 1), 0)]
    sequences = [
        Sequence(Request(request("a", [1]), order, 9, EOS), 0, index, [1]) for order, index in orders
    ]
    assert [seq.key for seq in sorted(sequences)] == [(0, 1, 0), (0, 2, 0), (0, 2, 1), (1, 0, 0)]
