"""RMSNorm (Zhang & Sennrich 2019), alone and fused with the residual sum before it."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` [tokens, hidden] scaled to unit root mean square in float32, times ``weight`` [hidden]."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True).add_(eps))
    return wide.mul(scale).to(x.dtype).mul_(weight)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual += x`` in place; returns (norm of the sum, the sum), both [tokens, hidden]."""
    residual.add_(x)
    return rms_norm(residual, weight, eps), residual
