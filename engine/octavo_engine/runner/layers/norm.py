"""RMSNorm as a layer."""

from __future__ import annotations

from torch import Tensor, nn

from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import WeightSlot


class RMSNorm(nn.Module):
    def __init__(self, ctx: LayerContext, size: int, eps: float) -> None:
        super().__init__()
        self.weight = ctx.empty(size)
        self._eps = eps
        self._ops = ctx.ops

    def forward(self, x: Tensor) -> Tensor:
        return self._ops.rms_norm(x, self.weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of ``x + residual``, ``x + residual``); ``residual`` is overwritten."""
        return self._ops.add_rms_norm(x, residual, self.weight, self._eps)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        return {f"{name}.weight": WeightSlot(self.weight)}
