"""Rotary position embedding (Su et al. 2021), halves rotated as in GPT-NeoX."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [tokens, heads, head_dim] by ``cos``/``sin`` [tokens, 1, head_dim / 2] (float32)."""
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    low, high = out.chunk(2, dim=-1)
    low.copy_((first * cos).addcmul_(second, sin, value=-1))
    high.copy_((second * cos).addcmul_(first, sin))
    return out
