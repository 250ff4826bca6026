"""Rotary position embedding (Su et al. 2021), halves rotated as in GPT-NeoX."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [tokens, heads, head_dim] by ``cos``/``sin`` [tokens, 1, head_dim / 2] (float32)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
