"""Linear layers split over the ranks of a group: by output (column) or by input (row)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo_engine.runner.kernels.fp8 import Activation
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.layers.product import PlainProduct, product, spared
from octavo_engine.runner.weights.slots import Shard, WeightSlot


class ColumnParallelLinear(nn.Module):
    """Several projections of one input, fused: [tokens, in] -> [tokens, sum of this rank's output shards].

    Each rank holds the same ``shards`` of each projection's rows; outputs stay split.
    """

    def __init__(self, ctx: LayerContext, in_features: int, shards: list[Shard], bias: bool) -> None:
        super().__init__()
        self._shards, self._ctx = shards, ctx
        self._in, self._out = in_features, sum(shard.length for shard in shards)
        self.product = product(ctx, self._out, in_features, len(shards))
        self.bias = ctx.empty(self._out) if bias else None

    @property
    def takes_fp8(self) -> bool:
        """Whether an activation quantized token by token is welcome."""
        return self.product.takes_fp8

    def forward(self, x: Activation) -> Tensor:
        return self.product(x, self.bias)  # type: ignore[no-any-return]

    def gated(self, x: Activation, activation: str, *, fp8: bool = False) -> Activation:
        """``act(gate) * up`` of two fused projections: [tokens, in] -> [tokens, half of the output].

        ``fp8``: what takes the result wants it quantized.
        """
        return self.product.gated(x, self.bias, activation, fp8=fp8)

    def slots(self, *names: str) -> dict[str, WeightSlot]:
        """Slots for the projections' checkpoint names, in the order of ``shards``."""
        if spared(self._ctx, names):
            self.product = PlainProduct(self._ctx, self._out, self._in)
        sizes = [shard.length for shard in self._shards]
        found = _named(names, "weight", self.product.slots(sizes, 0, self._shards))
        if self.bias is not None:
            parts = zip(torch.split(self.bias, sizes), self._shards, strict=True)
            found |= _named(names, "bias", [WeightSlot(part, 0, shard) for part, shard in parts])
        return found


class RowParallelLinear(nn.Module):
    """[tokens, in / world size] -> [tokens, out], summed over the ranks."""

    def __init__(self, ctx: LayerContext, shard: Shard, out_features: int, bias: bool) -> None:
        super().__init__()
        self._shard, self._ctx, self._out = shard, ctx, out_features
        self.product = product(ctx, out_features, shard.length)
        self.bias = ctx.empty(out_features) if bias else None

    @property
    def takes_fp8(self) -> bool:
        """Whether an activation quantized token by token is welcome."""
        return self.product.takes_fp8

    def forward(self, x: Activation) -> Tensor:
        group = self._ctx.group
        bias = self.bias if group.rank == 0 else None  # added once, not once a rank
        return group.all_reduce(self.product(x, bias))

    def slots(self, name: str) -> dict[str, WeightSlot]:
        if spared(self._ctx, (name,)):
            self.product = PlainProduct(self._ctx, self._out, self._shard.length)
        found = _named((name,), "weight", self.product.slots([self._out], 1, [self._shard]))
        if self.bias is not None:
            found[f"{name}.bias"] = WeightSlot(self.bias)
        return found


def _named(names: tuple[str, ...], kind: str, slots: list[WeightSlot]) -> dict[str, WeightSlot]:
    return {f"{name}.{kind}": slot for name, slot in zip(names, slots, strict=True)}
