"""Linear layers split over the ranks of a group: by output (column) or by input (row)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import Shard, WeightSlot


class ColumnParallelLinear(nn.Module):
    """Several projections of one input, fused: [tokens, in] -> [tokens, sum of this rank's output shards].

    Each rank holds the same ``shards`` of each projection's rows; outputs stay split.
    """

    def __init__(self, ctx: LayerContext, in_features: int, shards: list[Shard], bias: bool) -> None:
        super().__init__()
        self._shards = shards
        self._ops = ctx.ops
        out = sum(shard.length for shard in shards)
        self.weight = ctx.empty(out, in_features)
        self.bias = ctx.empty(out) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self._ops.linear(x, self.weight, self.bias)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """``act(gate) * up`` of two fused projections: [tokens, in] -> [tokens, half of the output]."""
        return self._ops.gated(x, self.weight, self.bias, activation)

    def slots(self, *names: str) -> dict[str, WeightSlot]:
        """Slots for the projections' checkpoint names, in the order of ``shards``."""
        sizes = [shard.length for shard in self._shards]
        found = _named(names, "weight", torch.split(self.weight, sizes), self._shards)
        if self.bias is not None:
            found |= _named(names, "bias", torch.split(self.bias, sizes), self._shards)
        return found


class RowParallelLinear(nn.Module):
    """[tokens, in / world size] -> [tokens, out], summed over the ranks."""

    def __init__(self, ctx: LayerContext, shard: Shard, out_features: int, bias: bool) -> None:
        super().__init__()
        self._shard = shard
        self._group = ctx.group
        self._ops = ctx.ops
        self.weight = ctx.empty(out_features, shard.length)
        self.bias = ctx.empty(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self._group.rank == 0 else None  # added once, not once a rank
        return self._group.all_reduce(self._ops.linear(x, self.weight, bias))

    def slots(self, name: str) -> dict[str, WeightSlot]:
        found = {f"{name}.weight": WeightSlot(self.weight, 1, self._shard)}
        if self.bias is not None:
            found[f"{name}.bias"] = WeightSlot(self.bias)
        return found


def _named(
    names: tuple[str, ...], kind: str, parts: tuple[Tensor, ...], shards: list[Shard]
) -> dict[str, WeightSlot]:
    return {
        f"{name}.{kind}": WeightSlot(part, 0, shard)
        for name, part, shard in zip(names, parts, shards, strict=True)
    }
