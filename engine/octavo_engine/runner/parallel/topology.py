"""Which part of the model a rank holds: rank = stage * tensor size + shard. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from octavo_engine.config import ParallelConfig
from octavo_engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """A rank among ``tensor`` shards of each of ``pipeline`` stages."""

    rank: int = 0
    tensor: int = 1
    pipeline: int = 1

    @property
    def stage(self) -> int:
        return self.rank // self.tensor

    @property
    def shard(self) -> int:
        return self.rank % self.tensor

    @property
    def first(self) -> bool:
        """Whether it embeds the tokens."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether it samples."""
        return self.stage == self.pipeline - 1

    @property
    def reports(self) -> bool:
        """Whether its results are the engine's: one rank of those that sample."""
        return self.last and self.shard == 0

    def name(self, host: str = "") -> str:
        """For sentences: ``rank 3 (stage 1, shard 1) on HOST``."""
        where = f" on {host}" if host else ""
        if self.pipeline == 1:
            return f"rank {self.rank}{where}"
        return f"rank {self.rank} (stage {self.stage}, shard {self.shard}){where}"


FIRST_OF_ONE = Place()


def places(parallel: ParallelConfig) -> list[Place]:
    return [Place(rank, parallel.tensor, parallel.pipeline) for rank in range(parallel.world_size)]


def stage_layers(num_layers: int, stages: int, given: Sequence[int] | None = None) -> list[range]:
    """Each stage's layers: as many as ``given``, or evenly, where early stages take what is left over.

    Errors: ConfigError when the numbers do not fit.
    """
    counts = (
        list(given) if given else [num_layers // stages + (i < num_layers % stages) for i in range(stages)]
    )
    if len(counts) != stages or sum(counts) != num_layers or min(counts) < 1:
        asked = ",".join(map(str, counts)) if given else None
        raise ConfigError(
            f"--pipeline-layers {asked} must name {stages} numbers of at least 1 that sum to the model's "
            f"{num_layers} layers."
            if given
            else f"--pipeline-parallel-size {stages} is more than the model's {num_layers} layers; lower it."
        )
    return [range(begin, end) for begin, end in pairwise([0, *accumulate(counts)])]
