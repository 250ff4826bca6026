"""What stands between the QKV product and attention, in one pass: q/k norm, RoPE, write to the KV cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.fp8 import saturated
from octavo_engine.runner.kernels.triton.launch import follow, release

_HEADS = 8  # heads a program


def rope_and_cache(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    *,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> Tensor:
    """``qkv`` [tokens, heads + 2 * kv_heads, head_dim] -> rotated queries [tokens, heads, head_dim],
    contiguous.

    Rotated keys and the values go to the caches [blocks, block_size, kv_heads, head_dim] at ``slot_mapping``
    [tokens] int64 (negative: skipped). ``cos``/``sin`` are [tokens, 1, head_dim / 2] float32. With
    ``q_weight`` and ``k_weight`` [head_dim], queries and keys are RMS-normed over the head first (Qwen3).
    Caches in FP8 take what is left after division by ``k_scale`` and ``v_scale``.
    """
    tokens, all_heads, dim = qkv.shape
    kv_heads = k_cache.shape[2]
    heads = all_heads - 2 * kv_heads
    out = torch.empty(tokens, heads, dim, dtype=qkv.dtype, device=qkv.device)
    if tokens:
        grid = (tokens, triton.cdiv(all_heads, _HEADS))
        normed, overlapped = q_weight is not None, launch.overlaps(qkv)
        _rope_kernel[grid](
            qkv, out, cos, sin, k_cache, v_cache, slot_mapping,
            q_weight if normed else cos, k_weight if normed else cos, eps, 1 / k_scale, 1 / v_scale,
            qkv.stride(0), heads, kv_heads, dim, triton.next_power_of_2(dim // 2), _HEADS, normed,
            k_cache.dtype is FP8, overlapped, num_warps=2, launch_pdl=overlapped,
        )  # fmt: skip
    return out


@triton.jit
def _rope_kernel(
    qkv, out, cos, sin, k_cache, v_cache, slots, q_weight, k_weight, eps, k_factor, v_factor, stride,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, half_block: tl.constexpr,
    group: tl.constexpr, normed: tl.constexpr, quantized: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    follow(overlapped)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * group + tl.arange(0, group)
    half: tl.constexpr = dim // 2
    column = tl.arange(0, half_block)
    inside = (head < heads + 2 * kv_heads)[:, None] & (column < half)[None, :]
    place = qkv + token * stride + head[:, None] * dim + column[None, :]
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    is_query, is_value = (head < heads)[:, None], (head >= heads + kv_heads)[:, None]
    if normed:
        first, second = _norm_heads(
            first, second, q_weight, k_weight, column, is_query, is_value, eps, dim, out.dtype.element_ty
        )
    c = tl.load(cos + token * half + column, mask=column < half, other=0.0)[None, :]
    s = tl.load(sin + token * half + column, mask=column < half, other=0.0)[None, :]
    low = tl.where(is_value, first, first * c - second * s)
    high = tl.where(is_value, second, second * c + first * s)
    release(overlapped)
    goal = out + token * heads * dim + head[:, None] * dim + column[None, :]
    tl.store(goal, low.to(out.dtype.element_ty), mask=inside & is_query)
    tl.store(goal + half, high.to(out.dtype.element_ty), mask=inside & is_query)
    slot = tl.load(slots + token)
    kv_width: tl.constexpr = kv_heads * dim
    kept = inside & (slot >= 0)
    if quantized:
        factor = tl.where(is_value, v_factor, k_factor)
        low = saturated(low.to(out.dtype.element_ty).to(tl.float32) * factor)
        high = saturated(high.to(out.dtype.element_ty).to(tl.float32) * factor)
    place_in_slot = slot * kv_width + (head[:, None] - heads) * dim + column[None, :]
    _store_pair(k_cache + place_in_slot, low, high, half, kept & (head >= heads)[:, None] & (is_value == 0))
    _store_pair(v_cache + place_in_slot - kv_width, low, high, half, kept & is_value)


@triton.jit
def _norm_heads(
    first, second, q_weight, k_weight, column, is_query, is_value, eps, dim: tl.constexpr, dtype: tl.constexpr
):
    """RMSNorm of each query and key head; values pass. Rounds where the plain norm does."""
    half: tl.constexpr = dim // 2
    square = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    inverse = tl.rsqrt(square / dim + eps)[:, None]
    inside = column < half
    q_low = tl.load(q_weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    q_high = tl.load(q_weight + half + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    k_low = tl.load(k_weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    k_high = tl.load(k_weight + half + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    low = (first * inverse).to(dtype).to(tl.float32) * tl.where(is_query, q_low, k_low)
    high = (second * inverse).to(dtype).to(tl.float32) * tl.where(is_query, q_high, k_high)
    low, high = low.to(dtype).to(tl.float32), high.to(dtype).to(tl.float32)
    return tl.where(is_value, first, low), tl.where(is_value, second, high)


@triton.jit
def _store_pair(place, low, high, half: tl.constexpr, mask):
    dtype = place.dtype.element_ty
    tl.store(place, low.to(dtype), mask=mask)
    tl.store(place + half, high.to(dtype), mask=mask)
