"""The inputs of a decode step from the rows that live on the device: one program a sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton.sampling import SamplingColumns

_CHUNK = 64  # blocks of a table that are copied at once
_ROWS = 64  # rows a program gathers


def expand_decodes(
    places: Tensor,
    last_tokens: Tensor,
    tables: Tensor,
    block_size: int,
    token_ids: Tensor,
    positions: Tensor,
    slots: Tensor,
    contexts: Tensor,
    goal_tables: Tensor,
) -> None:
    """Fill the last five, one entry for each of n decodes.

    ``places`` [2, n] int64: the row of each, and how many tokens of it are known; the last of them, in
    ``last_tokens`` [all rows] int64, is computed. ``tables`` [all rows, blocks] int32. Entries past n become
    padding: token and position 0, slot -1, context 0.
    """
    _expand_kernel[(token_ids.shape[0],)](
        places, last_tokens, tables, token_ids, positions, slots, contexts, goal_tables,
        places.shape[1], tables.stride(0), goal_tables.stride(0), block_size, _CHUNK, num_warps=1,
    )  # fmt: skip


def sampling_columns(places: Tensor, real: Tensor, whole: Tensor) -> SamplingColumns:
    """The sampling parameters of ``places``, as above.

    ``real`` [3, all rows] float32: temperature, top_p, min_p. ``whole`` [3, all rows] int64: top_k, seed,
    prompt length.
    """
    count, device = places.shape[1], places.device
    found = SamplingColumns(
        temperature=torch.empty(count, device=device),
        top_k=torch.empty(count, dtype=torch.int32, device=device),
        top_p=torch.empty(count, device=device),
        min_p=torch.empty(count, device=device),
        seeds=torch.empty(count, dtype=torch.int64, device=device),
        counters=torch.empty(count, dtype=torch.int64, device=device),
    )
    _columns_kernel[(triton.cdiv(count, _ROWS),)](
        places, real, whole, found.temperature, found.top_k, found.top_p, found.min_p, found.seeds,
        found.counters, count, real.stride(0), _ROWS, num_warps=1,
    )  # fmt: skip
    return found


@triton.jit(do_not_specialize=["count"])
def _expand_kernel(
    places, last_tokens, tables, token_ids, positions, slots, contexts, goal_tables,
    count, table_stride, goal_stride, block_size: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    live = index < count
    row = tl.load(places + index, mask=live, other=0)
    known = tl.load(places + count + index, mask=live, other=0)
    position = tl.where(live, known - 1, 0)
    table = tables + row * table_stride
    block = tl.load(table + position // block_size, mask=live, other=0).to(tl.int64)
    tl.store(token_ids + index, tl.load(last_tokens + row, mask=live, other=0))
    tl.store(positions + index, position)
    tl.store(slots + index, tl.where(live, block * block_size + position % block_size, -1))
    tl.store(contexts + index, known.to(tl.int32))
    goal = goal_tables + index.to(tl.int64) * goal_stride
    used = tl.cdiv(known, block_size).to(tl.int32)
    for start in range(0, used, chunk):
        block_index = start + tl.arange(0, chunk)
        inside = block_index < used
        tl.store(goal + block_index, tl.load(table + block_index, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _columns_kernel(
    places,
    real,
    whole,
    temperature,
    top_k,
    top_p,
    min_p,
    seeds,
    counters,
    count,
    capacity,
    block: tl.constexpr,
):
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < count
    row = tl.load(places + index, mask=inside, other=0)
    known = tl.load(places + count + index, mask=inside, other=0)
    tl.store(temperature + index, tl.load(real + row, mask=inside), mask=inside)
    tl.store(top_p + index, tl.load(real + capacity + row, mask=inside), mask=inside)
    tl.store(min_p + index, tl.load(real + 2 * capacity + row, mask=inside), mask=inside)
    tl.store(top_k + index, tl.load(whole + row, mask=inside).to(tl.int32), mask=inside)
    tl.store(seeds + index, tl.load(whole + capacity + row, mask=inside), mask=inside)
    tl.store(counters + index, known - tl.load(whole + 2 * capacity + row, mask=inside), mask=inside)
