"""RMSNorm as a layer."""

from __future__ import annotations

from torch import Tensor, nn

from octavo_engine.runner.kernels.norm import add_rms_norm, rms_norm
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import WeightSlot


class RMSNorm(nn.Module):
    def __init__(self, ctx: LayerContext, size: int, eps: float) -> None:
        super().__init__()
        self.weight = ctx.empty(size)
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self._eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of ``x + residual``, ``x + residual``); ``residual`` is overwritten."""
        return add_rms_norm(x, residual, self.weight, self._eps)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        return {f"{name}.weight": WeightSlot(self.weight)}
