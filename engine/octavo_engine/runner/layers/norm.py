"""RMSNorm as a layer."""

from __future__ import annotations

from torch import Tensor, nn

from octavo_engine.runner.kernels.fp8 import Activation
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import WeightSlot


class RMSNorm(nn.Module):
    def __init__(self, ctx: LayerContext, size: int, eps: float) -> None:
        super().__init__()
        self.weight = ctx.empty(size)
        self._eps = eps
        self._ops = ctx.ops

    def forward(self, x: Tensor, *, fp8: bool = False) -> Activation:
        """``fp8``: what takes the result wants it quantized."""
        norm = self._ops.fp8.rms_norm if fp8 else self._ops.rms_norm
        return norm(x, self.weight, self._eps)

    def add(self, x: Tensor, residual: Tensor, *, fp8: bool = False) -> tuple[Activation, Tensor]:
        """(norm of ``x + residual``, ``x + residual``); ``residual`` is overwritten."""
        norm = self._ops.fp8.add_rms_norm if fp8 else self._ops.add_rms_norm
        return norm(x, residual, self.weight, self._eps)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        return {f"{name}.weight": WeightSlot(self.weight)}
