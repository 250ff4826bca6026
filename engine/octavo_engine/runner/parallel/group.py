"""The collectives that layers need: an identity on one rank, torch.distributed on several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.distributed as dist
from torch import Tensor

from octavo_engine.runner.parallel.pulse import Pulse


class ParallelGroup(Protocol):
    """The ranks that share each layer's weights (tensor parallelism)."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum of ``x`` over the ranks; may be done in place."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """The ranks' ``x`` side by side along the last dimension, in rank order."""
        ...


@dataclass(frozen=True, slots=True)
class SoloGroup:
    """World size 1: every collective is the identity."""

    rank: int = 0
    world_size: int = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x


SOLO = SoloGroup()


class PulsingGroup:
    """``group``, whose collectives are where a rank is seen to move on; those of one rank wait for nobody."""

    def __init__(self, group: ParallelGroup, pulse: Pulse) -> None:
        self._group, self._pulse = group, pulse
        self.rank, self.world_size = group.rank, group.world_size

    def all_reduce(self, x: Tensor) -> Tensor:
        with self._pulse.waiting():
            return self._group.all_reduce(x)

    def all_gather(self, x: Tensor) -> Tensor:
        with self._pulse.waiting():
            return self._group.all_gather(x)


class DistributedGroup:
    """Collectives of ``torch.distributed`` over an initialized process group."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)

    def all_reduce(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self._group)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        parts = x.new_empty(self.world_size * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(parts, x.contiguous(), group=self._group)
        parts = parts.view(self.world_size, *x.shape)
        return parts.movedim(0, -2).flatten(-2)
