"""Attention of a mixed batch (decodes and prefill chunks) over the paged KV cache: the torch reference.

The reference gathers each sequence's keys and values by slot. Everything that is the same for all layers
(which slots, which mask) is worked out once a step by :func:`plan_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST_GROUP = 256  # decodes with shorter contexts are padded to one another; longer ones by powers of two


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """What one step asks of each sequence, in batch order; query tokens are concatenated in the same order.

    ``block_tables`` [sequences, max_blocks], ``context_lens`` [sequences] counts the step's own tokens too,
    ``query_lens`` [sequences]. ``num_decodes`` leading sequences have one query token each. ``null_slot`` is
    a slot of the cache that always holds zeros.
    """

    block_tables: NDArray[np.int32]
    context_lens: NDArray[np.int64]
    query_lens: NDArray[np.int64]
    num_decodes: int
    block_size: int
    null_slot: int


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decodes of similar context: ``tokens`` of the batch, with ``mask`` [n, 1, 1, length] or None."""

    tokens: Tensor | slice
    slots: Tensor  # [n, length]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """One sequence's chunk. ``mask`` [queries, length]; None: the chunk is the whole causal context."""

    tokens: slice
    slots: Tensor  # [length]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    decodes: list[DecodeGroup]
    prefills: list[PrefillChunk]


def plan_attention(layout: SequenceLayout, window: int | None, device: torch.device) -> AttentionPlan:
    """Slots and masks of a step. ``window``: a query sees itself and the ``window - 1`` tokens before it."""
    starts = np.concatenate(([0], np.cumsum(layout.query_lens)))
    prefills = [
        _prefill_chunk(layout, i, int(starts[i]), window, device)
        for i in range(layout.num_decodes, len(layout.query_lens))
    ]
    return AttentionPlan(_decode_groups(layout, window, device), prefills)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan, scale: float, v_scale: float = 1.0
) -> Tensor:
    """``q`` [tokens, heads, head_dim] against caches [blocks, block_size, kv_heads, head_dim] -> like ``q``.

    Caches in FP8 have a scale each: that of the keys is part of ``scale``, ``v_scale`` is that of the values.
    All query heads of a KV head share its tile (grouped-query attention, Ainslie et al. 2023).
    """
    out = torch.empty_like(q)
    keys, values = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    for group in plan.decodes:
        out[group.tokens] = _decode(q[group.tokens], keys, values, group, scale)
    for chunk in plan.prefills:
        out[chunk.tokens] = _prefill(q[chunk.tokens], keys, values, chunk, scale)
    return out if v_scale == 1.0 else out.mul_(v_scale)


def _decode(q: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, scale: float) -> Tensor:
    n, heads, dim = q.shape
    kv_heads = keys.shape[1]
    k = _gather(keys, group.slots, q.dtype).transpose(1, 2)
    v = _gather(values, group.slots, q.dtype).transpose(1, 2)
    packed = q.view(n, kv_heads, heads // kv_heads, dim)
    out = F.scaled_dot_product_attention(packed, k, v, attn_mask=group.mask, scale=scale)
    return out.reshape(n, heads, dim)


def _prefill(q: Tensor, keys: Tensor, values: Tensor, chunk: PrefillChunk, scale: float) -> Tensor:
    tokens, heads, dim = q.shape
    kv_heads = keys.shape[1]
    share = heads // kv_heads
    packed = q.transpose(0, 1).reshape(kv_heads, share, tokens, dim)
    k = _gather(keys, chunk.slots, q.dtype).transpose(0, 1).unsqueeze(1).expand(-1, share, -1, -1)
    v = _gather(values, chunk.slots, q.dtype).transpose(0, 1).unsqueeze(1).expand(-1, share, -1, -1)
    causal = chunk.mask is None
    out = F.scaled_dot_product_attention(packed, k, v, attn_mask=chunk.mask, is_causal=causal, scale=scale)
    return out.reshape(heads, tokens, dim).transpose(0, 1)


def _gather(cache: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    return cache.index_select(0, slots.reshape(-1)).view(*slots.shape, *cache.shape[1:]).to(dtype)


def _decode_groups(layout: SequenceLayout, window: int | None, device: torch.device) -> list[DecodeGroup]:
    context = layout.context_lens[: layout.num_decodes]
    if not len(context):
        return []
    seen = context if window is None else np.minimum(context, window)
    sizes = np.ceil(np.log2(np.maximum(seen, _SMALLEST_GROUP))).astype(np.int64)
    return [_decode_group(layout, np.flatnonzero(sizes == size), seen, device) for size in np.unique(sizes)]


def _decode_group(
    layout: SequenceLayout, members: NDArray[np.int64], seen: NDArray[np.int64], device: torch.device
) -> DecodeGroup:
    lens = seen[members]
    context = layout.context_lens[members]
    offsets = np.arange(lens.max())
    valid = offsets < lens[:, None]
    positions = np.where(valid, (context - lens)[:, None] + offsets, 0)
    slots = np.where(valid, _slots(layout, members[:, None], positions), layout.null_slot)
    everyone = len(members) == layout.num_decodes
    tokens = slice(0, layout.num_decodes) if everyone else torch.from_numpy(members).to(device)
    mask = None if valid.all() else torch.from_numpy(valid[:, None, None, :]).to(device)
    return DecodeGroup(tokens, torch.from_numpy(slots).to(device), mask)


def _prefill_chunk(
    layout: SequenceLayout, index: int, start: int, window: int | None, device: torch.device
) -> PrefillChunk:
    context, queries = int(layout.context_lens[index]), int(layout.query_lens[index])
    computed = context - queries
    first = 0 if window is None else max(0, computed + 1 - window)
    slots = torch.from_numpy(_slots(layout, np.asarray(index), np.arange(first, context))).to(device)
    whole = computed == 0 and (window is None or context <= window)
    mask = None if whole else _causal_mask(computed, context, first, window, device)
    return PrefillChunk(slice(start, start + queries), slots, mask)


def _causal_mask(computed: int, context: int, first: int, window: int | None, device: torch.device) -> Tensor:
    """[context - computed, context - first] bool: query at position p sees keys in (p - window, p]."""
    queries = torch.arange(computed, context, device=device)[:, None]
    keys = torch.arange(first, context, device=device)[None, :]
    mask = keys <= queries
    return mask if window is None else mask & (keys > queries - window)


def _slots(
    layout: SequenceLayout, rows: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    blocks = layout.block_tables[rows, positions // layout.block_size].astype(np.int64)
    return blocks * layout.block_size + positions % layout.block_size
