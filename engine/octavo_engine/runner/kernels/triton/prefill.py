"""Causal attention of prompt chunks over the paged cache (FlashAttention 2, Dao 2023), with packed GQA heads.

A program takes a few query tokens of one sequence with all query heads of one KV head, so each tile of keys
is read once for the whole group. The chunk's own keys and values are in the cache already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.runner.kernels.triton.decode import score_scales
from octavo_engine.runner.kernels.triton.softmax import attend_tile, cache_rows


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How a program works. ``rows``: query tokens times query heads of a KV head; ``tile``: keys at once."""

    rows: int
    tile: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class PrefillTiles:
    """Which query tokens each program takes; int32 on the device, one column a tile, longest work first.

    ``tiles`` [4, n]: sequence, first token in the batch, tokens, position of the first token.
    """

    tiles: Tensor
    tokens: int  # most tokens of a tile
    config: PrefillConfig


def default_config(head_dim: int, tokens: int) -> PrefillConfig:
    """For ``tokens`` query tokens in a batch; few of them are shared out in smaller pieces."""
    if head_dim > 128:
        return PrefillConfig(128, 32, 8, 2)
    return PrefillConfig(128, 128, 8, 3) if tokens > 1024 else PrefillConfig(64, 64, 4, 2)


def plan_tiles(
    first: int, query_lens: NDArray[np.int64], context_lens: NDArray[np.int64], tokens: int
) -> NDArray[np.int32]:
    """[4, tiles] of :class:`PrefillTiles` for sequences ``first`` and after, ``tokens`` a tile at most."""
    starts = np.cumsum(query_lens) - query_lens
    lens = query_lens[first:]
    counts = -(-lens // tokens)
    sequence = np.repeat(np.arange(first, first + len(lens)), counts)
    offset = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * tokens
    taken = np.minimum(tokens, query_lens[sequence] - offset)
    position = context_lens[sequence] - query_lens[sequence] + offset
    order = np.argsort(-(position + taken), kind="stable")
    columns = np.stack([sequence, starts[sequence] + offset, taken, position])[:, order]
    return np.ascontiguousarray(columns, dtype=np.int32)


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
) -> None:
    """Write the tokens of ``out`` (like ``q``) that ``tiles`` names; arguments as of ``paged_decode``."""
    heads, dim = q.shape[1:]
    kv_heads = k_cache.shape[2]
    inner, cap = score_scales(scale, soft_cap)
    config = tiles.config
    _prefill_kernel[(tiles.tiles.shape[1], kv_heads)](
        q, k_cache, v_cache, block_tables, tiles.tiles, out, tiles.tiles.shape[1],
        inner, cap, window or 0,
        q.stride(0), block_tables.stride(0), k_cache.stride(0), k_cache.stride(1),
        heads // kv_heads, tiles.tokens, config.rows, dim, triton.next_power_of_2(dim), k_cache.shape[1],
        config.tile, window is not None, soft_cap is not None,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_tiles", "window"])
def _prefill_kernel(
    q, keys, values, tables, tiles, out, num_tiles, scale, cap, window,
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
    queries = tl.load(
        q + (token + member)[:, None] * q_stride + head[:, None] * dim + column[None, :],
        mask=inside,
        other=0.0,
    )
    position = computed + member
    end = computed + count
    # Tiles before `border` are seen whole by every query of this program.
    border = 0 if windowed else (computed + 1) // tile * tile
    begin = tl.maximum(computed - window + 1, 0) // tile * tile if windowed else 0
    acc = tl.zeros([rows, dim_block], tl.float32)
    top = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    table = tables + sequence * table_stride
    acc, top, total = _scan(
        queries, keys + kv_head * dim, values + kv_head * dim, table, begin, border, end, position, window,
        acc, top, total, column, block_stride, slot_stride, scale, cap,
        dim, block_size, tile, windowed, capped, False,
    )  # fmt: skip
    acc, top, total = _scan(
        queries, keys + kv_head * dim, values + kv_head * dim, table, tl.maximum(begin, border), end, end,
        position, window, acc, top, total, column, block_stride, slot_stride, scale, cap,
        dim, block_size, tile, windowed, capped, True,
    )  # fmt: skip
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    heads = tl.num_programs(1) * share
    goal = out + ((token + member) * heads + head)[:, None] * dim + column[None, :]
    tl.store(goal, result.to(out.dtype.element_ty), mask=inside)


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
