"""Attention of one query token a sequence over the paged cache: split-KV (Flash-Decoding) with packed GQA
heads.

A program takes one (sequence, KV head, split): all query heads of the KV head share each tile of keys that it
reads. Splits of a row meet again in the same launch: the last one to finish, told by a counter, sums up in
the order of the splits, so the result does not depend on timing. The grid depends on tensor shapes only and
lengths are read on the device, so a captured CUDA graph serves any lengths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.launch import follow, release
from octavo_engine.runner.kernels.triton.multiprocessors import multiprocessors
from octavo_engine.runner.kernels.triton.softmax import attend_tile, cache_rows, operand

LOG2_E = 1 / math.log(2)
_PROGRAMS_PER_SM = 2
_MOST_SPLITS = 64


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How a program works: tokens a tile, warps, and how many tiles are under way at once."""

    tile: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class DecodeScratch:
    """Partial results of the splits, and their counters, which every launch leaves at zero.

    Launches that share one scratch must not overlap. ``programs`` is how many keep the device busy.
    """

    programs: int
    outputs: Tensor  # [partial results, head_dim] float32
    peaks: Tensor  # [partial results, 2] float32: the highest score (base 2) and the sum of weights
    counters: Tensor  # [rows, kv_heads] int32

    @classmethod
    def allocate(
        cls, rows: int, heads: int, kv_heads: int, head_dim: int, device: torch.device
    ) -> DecodeScratch:
        """For decodes of up to ``rows`` sequences."""
        programs = _PROGRAMS_PER_SM * multiprocessors(device)
        partials = heads * (
            -(-programs // kv_heads) + rows
        )  # bounds rows * heads * splits for all fewer rows
        return cls(
            programs,
            torch.empty(partials, head_dim, dtype=torch.float32, device=device),
            torch.empty(partials, 2, dtype=torch.float32, device=device),
            torch.zeros(rows, kv_heads, dtype=torch.int32, device=device),
        )

    def splits(self, rows: int, kv_heads: int) -> int:
        """Enough programs to keep every multiprocessor reading when there are few rows."""
        return max(1, min(_MOST_SPLITS, -(-self.programs // (rows * kv_heads))))


def paged_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    scratch: DecodeScratch,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    v_scale: float = 1.0,
    out: Tensor | None = None,
    config: DecodeConfig | None = None,
) -> Tensor:
    """``q`` [rows, heads, head_dim] against caches [blocks, block_size, kv_heads, head_dim] -> like ``q``.

    ``block_tables`` [rows, max_blocks] int32; ``context_lens`` [rows] int32 counts the row's own token, and a
    row of 0 gives zeros. ``window``: a query sees itself and the ``window - 1`` tokens before it.
    ``soft_cap``: scores are ``soft_cap * tanh(score / soft_cap)`` (Gemma 2). ``head_dim`` is a multiple of
    16. Caches in FP8 have a scale each: that of the keys is part of ``scale``, ``v_scale`` is the values'.
    """
    rows, heads, dim = q.shape
    kv_heads = k_cache.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    inner, cap = score_scales(scale, soft_cap)
    config = config or default_config(dim, rows * kv_heads / scratch.programs)
    overlapped = launch.overlaps(q)
    share = heads // kv_heads
    if rows:
        splits = scratch.splits(rows, kv_heads)
        _decode_kernel[(rows, kv_heads, splits)](
            q, k_cache, v_cache, block_tables, context_lens, out,
            scratch.outputs, scratch.peaks, scratch.counters, inner, cap, v_scale, window or 0, splits,
            q.stride(0), block_tables.stride(0), k_cache.stride(0), k_cache.stride(1),
            share, triton.next_power_of_2(share), dim, triton.next_power_of_2(dim), k_cache.shape[1],
            config.tile, splits > 1, window is not None, soft_cap is not None, overlapped,
            num_warps=config.warps, num_stages=config.stages, launch_pdl=overlapped,
        )  # fmt: skip
    return out


def default_config(head_dim: int, load: float) -> DecodeConfig:
    """``load``: programs before splitting, over those that keep the device busy."""
    width = triton.next_power_of_2(head_dim)
    if load >= 3:
        return DecodeConfig(tile=max(16, 4096 // width), warps=2, stages=2)
    tile = min(128, 8192 // width)
    return DecodeConfig(tile, warps=4, stages=3) if load >= 1 else DecodeConfig(tile, warps=2, stages=2)


def score_scales(scale: float, soft_cap: float | None) -> tuple[float, float]:
    """(factor on q k, cap) such that :func:`attend_tile`'s scores come out in powers of two."""
    return (scale * LOG2_E, 0.0) if soft_cap is None else (scale / soft_cap, soft_cap * LOG2_E)


# Lengths and splits change from batch to batch; specializing on them would compile again and again.
@triton.jit(do_not_specialize=["window", "splits"])
def _decode_kernel(
    q, keys, values, tables, contexts, out, partials, peaks, counters,
    scale, cap, v_scale, window, splits, q_stride, table_stride, block_stride, slot_stride,
    share: tl.constexpr, members: tl.constexpr, dim: tl.constexpr, dim_block: tl.constexpr,
    block_size: tl.constexpr, tile: tl.constexpr, split_up: tl.constexpr,
    windowed: tl.constexpr, capped: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    packed: tl.constexpr = members if members > 16 else 16  # the least that a matrix product takes
    follow(overlapped)
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    context = tl.load(contexts + row)
    first = tl.maximum(context - window, 0) if windowed else 0
    first_tile = first // tile
    tiles = tl.cdiv(context, tile) - first_tile
    tiles_a_split = tl.maximum(tl.cdiv(tiles, splits), 1)
    active = tl.maximum(tl.cdiv(tiles, tiles_a_split), 1)
    if split < active:
        begin = first_tile + split * tiles_a_split
        end = tl.minimum(begin + tiles_a_split, first_tile + tiles)
        member, column = tl.arange(0, packed), tl.arange(0, dim_block)
        head = row * (tl.num_programs(1) * share) + kv_head * share + member
        inside = (member < share)[:, None] & (column < dim)[None, :]
        place = q + row * q_stride + (kv_head * share + member)[:, None] * dim + column[None, :]
        acc, top, total = _scan(
            operand(tl.load(place, mask=inside, other=0.0), keys),
            keys + kv_head * dim, values + kv_head * dim, tables + row * table_stride,
            begin * tile, end * tile, first, context, column, block_stride, slot_stride, scale, cap,
            packed, dim, dim_block, block_size, tile, capped,
        )  # fmt: skip
        release(overlapped)
        acc = acc * v_scale
        if not split_up:
            tl.store(out + head[:, None] * dim + column[None, :], _normalized(acc, total, out), mask=inside)
        else:
            slot = head * splits + split
            tl.store(partials + slot[:, None] * dim + column[None, :], acc, mask=inside)
            tl.store(peaks + slot * 2, top, mask=member < share)
            tl.store(peaks + slot * 2 + 1, total, mask=member < share)
            tl.debug_barrier()  # the counter speaks for the stores of all threads
            counter = counters + row * tl.num_programs(1) + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == active - 1:
                tl.store(counter, 0)
                first_head = row * (tl.num_programs(1) * share) + kv_head * share
                _merge(out, partials, peaks, first_head, active, splits, share, members, dim, dim_block)


@triton.jit
def _scan(
    q, keys, values, table, begin, end, first, context, column, block_stride, slot_stride, scale, cap,
    packed: tl.constexpr, dim: tl.constexpr, dim_block: tl.constexpr, block_size: tl.constexpr,
    tile: tl.constexpr, capped: tl.constexpr,
):  # fmt: skip
    """Online softmax of ``q`` [packed, dim] over the tokens [begin, end) that lie in [first, context)."""
    acc = tl.zeros([packed, dim_block], tl.float32)
    top = tl.full([packed], float("-inf"), tl.float32)
    total = tl.zeros([packed], tl.float32)
    for start in tl.range(begin, end, tile):
        position = start + tl.arange(0, tile)
        seen = (position >= first) & (position < context)
        offset = (
            cache_rows(table, position, seen, block_size, block_stride, slot_stride)[:, None]
            + column[None, :]
        )
        mask = seen[:, None] & (column < dim)[None, :]
        k = tl.load(keys + offset, mask=mask, other=0.0).to(q.dtype)
        v = tl.load(values + offset, mask=mask, other=0.0).to(q.dtype)
        acc, top, total = attend_tile(q, k, v, seen[None, :], acc, top, total, scale, cap, capped, True)
    return acc, top, total


@triton.jit
def _merge(
    out, partials, peaks, head, active, splits, share: tl.constexpr, members: tl.constexpr,
    dim: tl.constexpr, dim_block: tl.constexpr,
):  # fmt: skip
    """Sum up the ``active`` splits of the ``share`` heads from ``head`` on, in order, into ``out``."""
    chunk: tl.constexpr = 64 // members  # splits that are read at once
    member, column = tl.arange(0, members), tl.arange(0, dim_block)
    acc = tl.zeros([members, dim_block], tl.float32)
    top = tl.full([members], float("-inf"), tl.float32)
    total = tl.zeros([members], tl.float32)
    for start in range(0, active, chunk):
        split = start + tl.arange(0, chunk)
        slot = (head + member)[:, None] * splits + split[None, :]
        real = (member < share)[:, None] & (split < active)[None, :]
        peak = tl.load(peaks + slot * 2, mask=real, other=float("-inf"), cache_modifier=".cg")
        weight = tl.load(peaks + slot * 2 + 1, mask=real, other=0.0, cache_modifier=".cg")
        place = partials + slot[:, :, None] * dim + column[None, None, :]
        inside = real[:, :, None] & (column < dim)[None, None, :]
        part = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
        higher = tl.maximum(top, tl.max(peak, axis=1))
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        keep, gain = tl.exp2(top - pivot), tl.exp2(peak - pivot[:, None])
        acc = acc * keep[:, None] + tl.sum(part * gain[:, :, None], axis=1)
        total = total * keep + tl.sum(weight * gain, axis=1)
        top = higher
    goal = out + (head + member)[:, None] * dim + column[None, :]
    tl.store(goal, _normalized(acc, total, out), mask=(member < share)[:, None] & (column < dim)[None, :])


@triton.jit
def _normalized(acc, total, out):
    """Weights sum to one; a row without keys gives zeros."""
    return (acc / tl.where(total == 0.0, 1.0, total)[:, None]).to(out.dtype.element_ty)
