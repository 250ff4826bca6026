"""Causal attention of prompt chunks over the paged cache (FlashAttention 2, Dao 2023), with packed GQA heads.

A program takes a few query tokens of one sequence with all query heads of one KV head, so each tile of keys
is read once for the whole group. The chunk's own keys and values are in the cache already. Of several
programs that share the keys of one tile the last to finish, told by a counter, sums up in the order of the
splits, so results do not depend on timing.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton.decode import score_scales
from octavo_engine.runner.kernels.triton.prefill_tiles import PrefillTiles
from octavo_engine.runner.kernels.triton.softmax import attend_tile, cache_rows, operand


def paged_prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    tiles: PrefillTiles,
    scale: float,
    out: Tensor,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    v_scale: float = 1.0,
) -> None:
    """Write the tokens of ``out`` (like ``q``) that ``tiles`` names; arguments as of ``paged_decode``."""
    heads, dim = q.shape[1:]
    kv_heads = k_cache.shape[2]
    inner, cap = score_scales(scale, soft_cap)
    config = tiles.config
    _prefill_kernel[(tiles.tiles.shape[1], kv_heads)](
        q, k_cache, v_cache, block_tables, tiles.tiles, out,
        tiles.scratch.outputs, tiles.scratch.peaks, tiles.scratch.counters, tiles.tiles.shape[1],
        inner, cap, v_scale, window or 0,
        q.stride(0), block_tables.stride(0), k_cache.stride(0), k_cache.stride(1),
        heads // kv_heads, tiles.tokens, config.rows, dim, triton.next_power_of_2(dim), k_cache.shape[1],
        config.tile, window is not None, soft_cap is not None,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_tiles", "window"])
def _prefill_kernel(
    q, keys, values, tables, tiles, out, partials, peaks, counters, num_tiles, scale, cap, v_scale, window,
    q_stride, table_stride, block_stride, slot_stride,
    share: tl.constexpr, tokens: tl.constexpr, rows: tl.constexpr, dim: tl.constexpr, dim_block: tl.constexpr,
    block_size: tl.constexpr, tile: tl.constexpr, windowed: tl.constexpr, capped: tl.constexpr,
):  # fmt: skip
    index, kv_head = tl.program_id(0), tl.program_id(1)
    sequence = tl.load(tiles + index).to(tl.int64)
    token = tl.load(tiles + num_tiles + index).to(tl.int64)
    count = tl.load(tiles + 2 * num_tiles + index)
    computed = tl.load(tiles + 3 * num_tiles + index)
    row, column = tl.arange(0, rows), tl.arange(0, dim_block)
    member = row // share
    head = kv_head * share + row % share
    inside = ((member < count) & (row < tokens * share))[:, None] & (column < dim)[None, :]
    origin = q + (token + member)[:, None] * q_stride + head[:, None] * dim + column[None, :]
    queries = operand(tl.load(origin, mask=inside, other=0.0), keys)
    position = computed + member
    context = computed + count
    first_key, last_key = tl.load(tiles + 4 * num_tiles + index), tl.load(tiles + 5 * num_tiles + index)
    splits = tl.load(tiles + 8 * num_tiles + index)
    # Tiles before `border` are seen whole by every query of this program.
    border = 0 if windowed else (computed + 1) // tile * tile
    begin = first_key
    if windowed:
        begin = tl.maximum(tl.maximum(computed - window + 1, 0) // tile * tile, first_key)
    acc = tl.zeros([rows, dim_block], tl.float32)
    top = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    table = tables + sequence * table_stride
    acc, top, total = _scan(
        queries, keys + kv_head * dim, values + kv_head * dim, table, begin, tl.minimum(border, last_key),
        context, position, window, acc, top, total, column, block_stride, slot_stride, scale, cap,
        dim, block_size, tile, windowed, capped, False,
    )  # fmt: skip
    acc, top, total = _scan(
        queries, keys + kv_head * dim, values + kv_head * dim, table, tl.maximum(begin, border), last_key,
        context, position, window, acc, top, total, column, block_stride, slot_stride, scale, cap,
        dim, block_size, tile, windowed, capped, True,
    )  # fmt: skip
    acc = acc * v_scale
    heads = tl.num_programs(1) * share
    goal = out + ((token + member) * heads + head)[:, None] * dim + column[None, :]
    if splits > 1:
        place, split = tl.load(tiles + 6 * num_tiles + index), tl.load(tiles + 7 * num_tiles + index)
        slot = (place * tl.num_programs(1) + kv_head).to(tl.int64)  # of the tile's first split
        apart = tl.num_programs(1) * rows  # partial rows from a split to the next
        mine = slot * rows + split * apart + row
        real = column[None, :] < dim
        tl.store(partials + mine[:, None] * dim + column[None, :], acc, mask=real)
        tl.store(peaks + mine * 2, top)
        tl.store(peaks + mine * 2 + 1, total)
        tl.debug_barrier()  # the counter speaks for the stores of all threads
        if tl.atomic_add(counters + slot, 1, sem="acq_rel") == splits - 1:
            tl.store(counters + slot, 0)
            _merge(
                goal, inside, partials, peaks, slot * rows + row, column, apart, splits, rows, dim, dim_block
            )
    else:
        tl.store(goal, _normalized(acc, total).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _merge(
    goal, inside, partials, peaks, place, column, apart, splits,
    rows: tl.constexpr, dim: tl.constexpr, dim_block: tl.constexpr,
):  # fmt: skip
    """Sum up the partial results at ``place`` [rows] and ``apart`` rows on, in order, into ``goal``."""
    acc = tl.zeros([rows, dim_block], tl.float32)
    top = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    for split in range(splits):
        mine = place + split * apart
        peak = tl.load(peaks + mine * 2, cache_modifier=".cg")
        weight = tl.load(peaks + mine * 2 + 1, cache_modifier=".cg")
        part = tl.load(
            partials + mine[:, None] * dim + column[None, :],
            mask=column[None, :] < dim, other=0.0, cache_modifier=".cg",
        )  # fmt: skip
        higher = tl.maximum(top, peak)
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        keep, gain = tl.exp2(top - pivot), tl.exp2(peak - pivot)
        acc = acc * keep[:, None] + part * gain[:, None]
        total = total * keep + weight * gain
        top = higher
    tl.store(goal, _normalized(acc, total).to(goal.dtype.element_ty), mask=inside)


@triton.jit
def _normalized(acc, total):
    """Weights sum to one; a row without keys gives zeros."""
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def _scan(
    q, keys, values, table, begin, end, context, position, window, acc, top, total, column,
    block_stride, slot_stride, scale, cap,
    dim: tl.constexpr, block_size: tl.constexpr, tile: tl.constexpr,
    windowed: tl.constexpr, capped: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Online softmax over the tiles of [begin, end); ``position`` [rows] of the queries."""
    for start in tl.range(begin, end, tile):
        key_position = start + tl.arange(0, tile)
        seen = key_position < context
        offset = (
            cache_rows(table, key_position, seen, block_size, block_stride, slot_stride)[:, None]
            + column[None, :]
        )
        visible = key_position[None, :] <= position[:, None]
        if windowed:
            visible &= key_position[None, :] > position[:, None] - window
        mask = (column < dim)[None, :] & seen[:, None]
        k = tl.load(keys + offset, mask=mask, other=0.0).to(q.dtype)
        v = tl.load(values + offset, mask=mask, other=0.0).to(q.dtype)
        acc, top, total = attend_tile(q, k, v, visible, acc, top, total, scale, cap, capped, masked)
    return acc, top, total
