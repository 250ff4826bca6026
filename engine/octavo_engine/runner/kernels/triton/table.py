"""The kernels as the table of operators that layers call."""

from __future__ import annotations

import torch

from octavo_engine.runner.kernels.ops import HeadShape, Operators
from octavo_engine.runner.kernels.triton import attention, cache, gemv, norm, rope


def triton_operators(device: torch.device, shape: HeadShape) -> Operators:
    """Operators of one stream: its launches share scratch memory, so they must not overlap."""
    products = gemv.SmallProducts(device)
    planner = attention.Planner(shape, device)
    return Operators(
        norm.rms_norm,
        norm.add_rms_norm,
        products.linear,
        products.gated,
        rope.rope_and_cache,
        planner.plan,
        attention.paged_attention,
        cache.copy_blocks,
    )
