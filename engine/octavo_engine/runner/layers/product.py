"""A weight and the way it multiplies: in the model's dtype, or in FP8 with scales."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from octavo_engine.errors import ModelError
from octavo_engine.runner.kernels.fp8 import Activation, Quantized
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import Fp8Slot, Shard, WeightSlot


class PlainProduct(nn.Module):
    takes_fp8 = False

    def __init__(self, ctx: LayerContext, rows: int, inner: int) -> None:
        super().__init__()
        self._ops = ctx.ops
        self.weight = ctx.empty(rows, inner)

    def forward(self, x: Activation, bias: Tensor | None) -> Tensor:
        return self._ops.linear(_plain(x), self.weight, bias)

    def gated(self, x: Activation, bias: Tensor | None, kind: str, *, fp8: bool) -> Activation:
        found = self._ops.gated(_plain(x), self.weight, bias, kind)
        return self._ops.fp8.quantize(found, None) if fp8 else found

    def slots(self, sizes: list[int], dim: int, shards: list[Shard]) -> list[WeightSlot]:
        parts = torch.split(self.weight, sizes)
        return [WeightSlot(part, dim, shard) for part, shard in zip(parts, shards, strict=True)]


class Fp8Product(nn.Module):
    """``scales`` [rows] are the weight's; ``input_scales`` [projections] those of static activations, the
    largest of which counts."""

    def __init__(self, ctx: LayerContext, rows: int, inner: int, projections: int) -> None:
        super().__init__()
        assert ctx.quantization is not None
        self._ops, self._dtype, self._scheme = ctx.ops.fp8, ctx.dtype, ctx.quantization
        self.weight = ctx.empty(rows, inner, dtype=ctx.ops.fp8.held)
        self.scales = ctx.empty(rows, dtype=torch.float32)
        static = self._scheme.static
        self.input_scales = ctx.empty(projections, dtype=torch.float32) if static else None

    @property
    def takes_fp8(self) -> bool:
        return not self._scheme.static

    def forward(self, x: Activation, bias: Tensor | None) -> Tensor:
        return self._ops.linear(self._quantized(x), self._quantized_weight, bias, self._dtype)

    def gated(self, x: Activation, bias: Tensor | None, kind: str, *, fp8: bool) -> Activation:
        gated = self._ops.gated_quantized if fp8 else self._ops.gated
        return gated(self._quantized(x), self._quantized_weight, bias, kind, self._dtype)

    def slots(self, sizes: list[int], dim: int, shards: list[Shard]) -> list[WeightSlot]:
        parts, scales = torch.split(self.weight, sizes), torch.split(self.scales, sizes)
        static = self.input_scales
        inputs = [None] * len(sizes) if static is None else list(torch.split(static, 1))
        rest = [Fp8Slot(s, i, self._scheme.per_tensor) for s, i in zip(scales, inputs, strict=True)]
        return [WeightSlot(*each) for each in zip(parts, [dim] * len(sizes), shards, rest, strict=True)]

    def _quantized(self, x: Activation) -> Quantized:
        return x if isinstance(x, Quantized) else self._ops.quantize(x, self._input_scale)

    @cached_property
    def _quantized_weight(self) -> Quantized:
        return Quantized(self.weight, self.scales)

    @cached_property
    def _input_scale(self) -> Tensor | None:
        """After loading; the same tensor for every captured graph."""
        return None if self.input_scales is None else self.input_scales.amax()


def product(ctx: LayerContext, rows: int, inner: int, projections: int = 1) -> PlainProduct | Fp8Product:
    """A weight [rows, inner] of that many fused projections."""
    if ctx.quantization is None:
        return PlainProduct(ctx, rows, inner)
    return Fp8Product(ctx, rows, inner, projections)


def spared(ctx: LayerContext, names: tuple[str, ...]) -> bool:
    """Whether the checkpoint leaves the projections of these names in its own dtype."""
    if ctx.quantization is None:
        return False
    found = {ctx.quantization.spares(name) for name in names}
    if len(found) > 1:
        raise ModelError(
            f"The checkpoint quantizes some of {', '.join(names)} and not the others; they are one product "
            "here, so it must do the same with all of them."
        )
    return found.pop()


def _plain(x: Activation) -> Tensor:
    assert isinstance(x, Tensor)  # only what takes FP8 is given it
    return x
