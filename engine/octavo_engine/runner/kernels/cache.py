"""Writes into the paged KV cache and moves of whole blocks."""

from __future__ import annotations

from torch import Tensor


def write_kv(key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] at flat slots (block * block_size + offset).

    Caches are [blocks, block_size, kv_heads, head_dim]; ``slot_mapping`` is [tokens] int64.
    """
    k_cache.flatten(0, 1).index_copy_(0, slot_mapping, key)
    v_cache.flatten(0, 1).index_copy_(0, slot_mapping, value)


def copy_blocks(source: Tensor, target: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Copy blocks ``sources`` of ``source`` onto ``targets`` of ``target``.

    Both caches are [layers, 2, blocks, block_size, kv_heads, head_dim]; they may be one tensor and may lie on
    different devices. The indices are [n] int64 on their cache's device.
    """
    moved = source.index_select(2, sources)
    target.index_copy_(2, targets, moved.to(target.device))
