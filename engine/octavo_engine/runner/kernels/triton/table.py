"""The kernels as the table of operators that layers call."""

from __future__ import annotations

import torch

from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.kernels.ops import Fp8Operators, HeadShape, Operators
from octavo_engine.runner.kernels.triton import attention, cache, fp8, fp8_products, gemv, norm, rope


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
        _fp8_operators(device),
    )


def _fp8_operators(device: torch.device) -> Fp8Operators:
    products = fp8_products.Products(device)
    return Fp8Operators(
        FP8,
        fp8.quantize,
        norm.rms_norm_fp8,
        norm.add_rms_norm_fp8,
        products.linear,
        products.gated,
        products.gated_quantized,
    )
