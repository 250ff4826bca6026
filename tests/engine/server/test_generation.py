"""What a request's choices ask of the core as they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from tests.engine.server.tiny_model import tiny_tokenizer

from octavo_engine.core_client import CoreClient
from octavo_engine.messages import AddRequest, EngineStats, SequenceOutput
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.generation import Generation
from octavo_engine.server.metrics import Metrics
from octavo_engine.tokenizer import Tokenizer


class _Core:
    """Hands out the given batches of outputs, and notes between them what it is asked for."""

    def __init__(self, batches: list[list[SequenceOutput]]) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._batches = iter(batches)

    @contextlib.contextmanager
    def submit(self, _requests: Sequence[AddRequest]) -> Iterator[_Core]:
        yield self

    async def get(self) -> list[SequenceOutput]:
        self.asked.append(("outputs",))
        return next(self._batches)

    def abort_sequence(self, request_id: str, index: int) -> None:
        self.asked.append(("abort", request_id, index))

    def forget(self, request_id: str) -> bool:
        self.asked.append(("forget", request_id))
        return True


def _asked(requests: list[AddRequest], batches: list[list[SequenceOutput]]) -> list[tuple[Any, ...]]:
    core = _Core(batches)
    metrics = Metrics("m", EngineStats)

    async def run() -> None:
        with Generation(cast("CoreClient", core), Tokenizer(tiny_tokenizer()), metrics, requests, 0.0) as run:
            async for _ in run.deltas():
                pass

    asyncio.run(run())
    return core.asked


def _token(text: str) -> int:
    return Tokenizer(tiny_tokenizer()).encode(text)[0]


def test_a_prompt_ended_by_a_stop_string_is_freed_while_the_others_go_on() -> None:
    params = SamplingParams(stop=("S",), max_tokens=9)
    batches = [
        [SequenceOutput("r-0", 0, [_token("S")]), SequenceOutput("r-1", 0, [_token("a")])],
        [SequenceOutput("r-0", 0, [_token("b")]), SequenceOutput("r-1", 0, [_token("a")])],
        [SequenceOutput("r-1", 0, [_token("a")], finish_reason="length")],
    ]
    assert _asked([AddRequest(f"r-{i}", [1], params, 0.0) for i in range(2)], batches) == [
        ("outputs",),
        ("abort", "r-0", 0),
        ("forget", "r-0"),
        ("outputs",),
        ("outputs",),
        ("forget", "r-1"),
    ]


def test_of_several_choices_each_is_freed_as_it_ends_and_the_prompt_with_the_last() -> None:
    params = SamplingParams(n=2, stop=("S",), max_tokens=9)
    batches = [
        [
            SequenceOutput("r", 0, [_token("a")], finish_reason="length"),
            SequenceOutput("r", 1, [_token("a")]),
        ],
        [SequenceOutput("r", 1, [_token("S")])],
    ]
    assert _asked([AddRequest("r", [1], params, 0.0)], batches) == [
        ("outputs",),
        ("outputs",),
        ("abort", "r", 1),
        ("forget", "r"),
    ]
