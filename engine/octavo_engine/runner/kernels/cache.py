"""Writes into the paged KV cache and moves of whole blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.runner.kernels.fp8 import FP8, to_fp8


def write_kv(
    key: Tensor,
    value: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] at flat slots (block * block_size + offset).

    Caches are [blocks, block_size, kv_heads, head_dim]; ``slot_mapping`` is [tokens] int64. A cache in FP8
    takes what is left after division by its scale.
    """
    _write(key, k_cache, slot_mapping, k_scale)
    _write(value, v_cache, slot_mapping, v_scale)


def copy_blocks(source: Tensor, target: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Copy blocks ``sources`` of ``source`` onto ``targets`` of ``target``.

    Both caches are [layers, 2, blocks, block_size, kv_heads, head_dim]; they may be one tensor and may lie on
    different devices. The indices are [n] int64 on their cache's device.
    """
    moved = _bytes(source).index_select(2, sources)
    _bytes(target).index_copy_(2, targets, moved.to(target.device))


def _write(x: Tensor, cache: Tensor, slots: Tensor, scale: float) -> None:
    stored = to_fp8(x.float() / scale) if cache.dtype is FP8 else x
    _bytes(cache).flatten(0, 1).index_copy_(0, slots, _bytes(stored))


def _bytes(x: Tensor) -> Tensor:
    """FP8 as plain bytes, which torch can index."""
    return x.view(torch.uint8) if x.dtype is FP8 else x
