"""Layers split over two ranks that stand in threads of one process: together they give the whole result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from tests.engine.runner.driver import Driver, distributions
from tests.engine.runner.tiny_models import VOCAB, prompt, save
from torch import Tensor

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.layers.embedding import VocabParallelEmbedding
from octavo_engine.runner.layers.linear import ColumnParallelLinear, RowParallelLinear
from octavo_engine.runner.model_runner import ModelRunner, Seat
from octavo_engine.runner.parallel.group import SoloGroup
from octavo_engine.runner.weights.loader import load_weights
from octavo_engine.runner.weights.slots import Shard
from octavo_engine.sampling_params import SamplingParams

T = TypeVar("T")


@dataclass
class Meeting:
    """Where the ranks lay down their tensors and wait for each other."""

    size: int
    tensors: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        self.tensors[rank] = x.clone()
        self.barrier.wait()
        found = [self.tensors[other] for other in range(self.size)]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class ThreadGroup:
    meeting: Meeting
    rank: int

    @property
    def world_size(self) -> int:
        return self.meeting.size

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, x)).sum(0)

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self.meeting.exchange(self.rank, x), dim=-1)


@dataclass
class Tensors:
    """A checkpoint in memory."""

    tensors: dict[str, Tensor]

    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        found = self.tensors[name]
        return found.narrow(dim, shard.start, shard.length) if shard else found


def context(group: ThreadGroup | SoloGroup) -> LayerContext:
    return LayerContext(group, torch.float32, torch.device("cpu"))


def on_ranks(size: int, run: Callable[[ThreadGroup], T]) -> list[T]:
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: run(ThreadGroup(meeting, rank)), range(size)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def randoms(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(2)
    return Tensors(
        {name.replace("_", "."): torch.randn(*s, generator=generator) for name, s in shapes.items()}
    )


def test_a_column_split_followed_by_a_row_split_is_the_whole(x: Tensor) -> None:
    weights = randoms(up_weight=(8, 12), up_bias=(8,), gate_weight=(8, 12), gate_bias=(8,))
    weights.tensors |= randoms(down_weight=(12, 8), down_bias=(12,)).tensors

    def run(group: ThreadGroup) -> Tensor:
        ctx = context(group)
        shard = ctx.shard(8)
        column = ColumnParallelLinear(ctx, 12, [shard, shard], bias=True)
        row = RowParallelLinear(ctx, shard, 12, bias=True)
        load_weights(column.slots("up", "gate") | row.slots("down"), weights)
        up, gate = column(x).chunk(2, dim=-1)
        found: Tensor = row(up * gate)
        return found

    t = weights.tensors
    hidden = (x @ t["up.weight"].T + t["up.bias"]) * (x @ t["gate.weight"].T + t["gate.bias"])
    expected = hidden @ t["down.weight"].T + t["down.bias"]
    for found in on_ranks(2, run):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("vocab", [10, 11], ids=["even vocabulary", "odd vocabulary"])
def test_a_split_vocabulary_embeds_and_scores_as_the_whole(x: Tensor, vocab: int) -> None:
    weights = randoms(table_weight=(vocab, 12))
    tokens = torch.arange(vocab)

    def run(group: ThreadGroup) -> tuple[Tensor, Tensor]:
        table = VocabParallelEmbedding(context(group), vocab, 12)
        load_weights(table.slots("table"), weights)
        return table(tokens), table.logits(x)

    whole = weights.tensors["table.weight"]
    for embedded, logits in on_ranks(2, run):
        torch.testing.assert_close(embedded, whole)
        torch.testing.assert_close(logits, x @ whole.T)


def test_a_width_that_the_ranks_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tensor-parallel-size 2 does not divide the 9 pieces"):
        context(ThreadGroup(Meeting(2), 0)).shard(9 * 8, 8)


@pytest.mark.parametrize(
    ("family", "size"),
    [("llama3", 2), ("wide-head", 2), ("biased", 4), ("qwen2-windowed", 2), ("qwen3", 2)],
    ids=["split KV heads", "a KV head on both ranks", "four ranks", "biased queries", "normed heads"],
)
def test_a_model_over_several_ranks_gives_the_logits_of_one(family: str, size: int, tmp_path: Path) -> None:
    folder = save(family, tmp_path)
    everything = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)

    def run(group: ThreadGroup | SoloGroup) -> Tensor:
        model = ModelConfig(source=str(folder), dtype="float32", device="cpu")
        runner = ModelRunner(
            EngineConfig(model=model, cache=CacheConfig(block_size=4, num_blocks=64)), Seat(group=group)
        )
        runner.load()
        runner.allocate(64, 0)
        seqs = Driver(runner).generate([prompt(9, seed=1), prompt(4, seed=2)], everything, count=4, chunk=5)
        return torch.cat([torch.from_numpy(distributions(seq, VOCAB)) for seq in seqs])

    whole = run(SoloGroup())
    for found in on_ranks(size, run):
        torch.testing.assert_close(found, whole, atol=2e-4, rtol=0)
