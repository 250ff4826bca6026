"""Attention over the paged cache against dense attention in float64."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given as given_that
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from octavo_engine.runner.kernels import attention as reference
from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.runner.kernels.triton.attention import paged_attention, plan_attention
from octavo_engine.runner.kernels.triton.decode import DecodeScratch, paged_decode
from octavo_engine.runner.kernels.triton.prefill_tiles import PrefillScratch, plan_tiles


@dataclass(frozen=True)
class Case:
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    block_size: int = 16
    context_lens: tuple[int, ...] = (5,)
    query_lens: tuple[int, ...] = (1,)
    window: int | None = None
    soft_cap: float | None = None
    dtype: torch.dtype = torch.float32
    scales: tuple[float, float] | None = None  # of keys and values in FP8

    @property
    def decodes(self) -> int:
        return next((i for i, n in enumerate(self.query_lens) if n != 1), len(self.query_lens))


@dataclass(frozen=True)
class Batch:
    q: Tensor
    caches: Tensor
    layout: reference.SequenceLayout


def batch(case: Case, device: torch.device) -> Batch:
    """Random queries and a cache whose blocks lie in random order."""
    width = -(-max(case.context_lens) // case.block_size) + 1
    n = len(case.context_lens)
    tables = np.random.default_rng(0).permutation(n * width).reshape(n, width).astype(np.int32)
    shape = (2, n * width + 1, case.block_size, case.kv_heads, case.dim)
    layout = reference.SequenceLayout(
        tables,
        np.array(case.context_lens, dtype=np.int64),
        np.array(case.query_lens, dtype=np.int64),
        case.decodes,
        case.block_size,
        n * width * case.block_size,
    )
    q = torch.randn(sum(case.query_lens), case.heads, case.dim, device=device).to(case.dtype)
    caches = torch.randn(shape, device=device)
    return Batch(q, caches.to(case.dtype if case.scales is None else FP8), layout)


def dense(case: Case, given: Batch) -> Tensor:
    parts, start = [], 0
    for i, (context, queries) in enumerate(zip(case.context_lens, case.query_lens, strict=True)):
        blocks = torch.from_numpy(given.layout.block_tables[i].astype(np.int64)).to(given.q.device)
        k, v = (cache[blocks].flatten(0, 1)[:context] for cache in given.caches.double())
        if case.scales is not None:
            k, v = k * case.scales[0], v * case.scales[1]
        share = case.heads // case.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        q = given.q[start : start + queries].double()
        scores = torch.einsum("qhd,khd->hqk", q, k) * case.dim**-0.5
        if case.soft_cap is not None:
            scores = case.soft_cap * torch.tanh(scores / case.soft_cap)
        at = torch.arange(context - queries, context, device=q.device)[:, None]
        key = torch.arange(context, device=q.device)[None, :]
        hidden = key > at if case.window is None else (key > at) | (key <= at - case.window)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v))
        start += queries
    return torch.cat(parts)


def check(case: Case, device: torch.device, programs: int | None = None, pieces: int | None = None) -> None:
    given = batch(case, device)
    shape = HeadShape(case.heads, case.kv_heads, case.dim)
    scratch = scratch_of(max(1, case.decodes), shape, device, programs)
    chunks = PrefillScratch.allocate(case.kv_heads, case.dim, device, pieces)
    plan = plan_attention(
        given.layout,
        case.window,
        device,
        shape,
        scratch,
        soft_cap=case.soft_cap,
        prefill_scratch=chunks,
    )
    k_scale, v_scale = case.scales or (1.0, 1.0)
    found = paged_attention(
        given.q, given.caches[0], given.caches[1], plan, case.dim**-0.5 * k_scale, v_scale
    )
    wanted = dense(case, given)
    error = ((found.double() - wanted).norm() / wanted.norm()).item()
    assert error < {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[case.dtype]
    assert not scratch.counters.any()
    assert not chunks.counters.any()


def scratch_of(rows: int, shape: HeadShape, device: torch.device, programs: int | None) -> DecodeScratch:
    """``programs``: as if the device needed that many to be busy, which sets how often a row is split."""
    if programs is None:
        return DecodeScratch.allocate(rows, shape.heads, shape.kv_heads, shape.head_dim, device)
    partials = shape.heads * (programs + rows)
    return DecodeScratch(
        programs,
        torch.full((partials, shape.head_dim), torch.nan, device=device),
        torch.full((partials, 2), torch.nan, device=device),
        torch.zeros(rows, shape.kv_heads, dtype=torch.int32, device=device),
    )


RAGGED = (1, 17, 130)
HEADS = [(1, 1), (9, 3), (7, 1), (8, 8)]


@pytest.mark.parametrize("programs", [1, 40])
@pytest.mark.parametrize("heads", HEADS)
def test_decode_of_ragged_rows(heads: tuple[int, int], programs: int, device: torch.device) -> None:
    check(Case(*heads, context_lens=RAGGED, query_lens=(1,) * 3), device, programs)


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_decode_of_all_head_and_block_sizes(dim: int, block_size: int, device: torch.device) -> None:
    check(Case(dim=dim, block_size=block_size, context_lens=(70, 33), query_lens=(1, 1)), device, 8)


@pytest.mark.parametrize("programs", [1, 12])
@pytest.mark.parametrize(("window", "soft_cap"), [(1, None), (16, None), (100, None), (None, 5.0), (40, 5.0)])
def test_decode_with_window_and_soft_cap(
    window: int | None, soft_cap: float | None, programs: int, device: torch.device
) -> None:
    check(Case(context_lens=(200, 7), query_lens=(1, 1), window=window, soft_cap=soft_cap), device, programs)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("programs", [1, 20])
def test_decode_of_empty_rows_gives_zeros(programs: int, window: int | None, device: torch.device) -> None:
    q, cache = torch.randn(3, 4, 64, device=device), torch.randn(2, 9, 16, 2, 64, device=device)
    tables = torch.zeros(3, 4, dtype=torch.int32, device=device)
    lens = torch.tensor([0, 20, 0], dtype=torch.int32, device=device)
    scratch = scratch_of(3, HeadShape(4, 2, 64), device, programs)
    out = paged_decode(q, cache[0], cache[1], tables, lens, 0.125, scratch, window=window)
    assert out[1].abs().sum() > 0
    assert not out[[0, 2]].any()


@pytest.mark.parametrize("heads", HEADS)
def test_prefill_of_ragged_chunks(heads: tuple[int, int], device: torch.device) -> None:
    check(Case(*heads, context_lens=(5, 90, 33), query_lens=(5, 70, 2)), device)


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_prefill_of_all_head_and_block_sizes(dim: int, block_size: int, device: torch.device) -> None:
    check(Case(dim=dim, block_size=block_size, context_lens=(40,), query_lens=(35,)), device)


F16, BF16 = torch.float16, torch.bfloat16  # the interpreter has no products of bfloat16
TOGETHER = {
    "4 of 4, dim 64, cap": Case(4, 4, 64, 16, soft_cap=5.0),
    "5 share a head, dim 80, blocks of 32, window": Case(5, 1, 80, 32, window=20),
    "3 share a head, dim 96, window and cap": Case(6, 2, 96, 16, window=7, soft_cap=3.0, dtype=F16),
    "6 share a head, dim 128, blocks of 32": Case(12, 2, 128, 32, window=16, dtype=F16),
    "7 share a head, dim 256, window and cap": Case(14, 2, 256, 16, window=30, soft_cap=5.0),
    "20 share a head, dim 16": Case(20, 1, 16, 16, soft_cap=2.0),
    "64 share a head, dim 48": Case(64, 1, 48, 32, window=9),
}


@pytest.mark.parametrize("programs", [1, 9])
@pytest.mark.parametrize("case", TOGETHER.values(), ids=TOGETHER)
def test_what_models_combine_in_a_mixed_ragged_batch(case: Case, programs: int, device: torch.device) -> None:
    batched = replace(case, context_lens=(40, 1, 17, 50, 3), query_lens=(1, 1, 1, 22, 3))
    check(batched, device, programs, pieces=programs)


@pytest.mark.parametrize(("window", "soft_cap"), [(1, None), (16, None), (100, None), (None, 5.0), (40, 5.0)])
def test_prefill_with_window_and_soft_cap(
    window: int | None, soft_cap: float | None, device: torch.device
) -> None:
    check(Case(context_lens=(130,), query_lens=(90,), window=window, soft_cap=soft_cap), device)


@pytest.mark.parametrize("pieces", [2, 5])
@pytest.mark.parametrize(
    ("window", "soft_cap", "heads"), [(None, None, (4, 2)), (150, None, (9, 3)), (None, 5.0, (2, 2))]
)
def test_keys_of_few_chunks_are_split(
    window: int | None, soft_cap: float | None, heads: tuple[int, int], pieces: int, device: torch.device
) -> None:
    case = Case(*heads, 32, context_lens=(420, 3), query_lens=(4, 2), window=window, soft_cap=soft_cap)
    check(case, device, pieces=pieces)


@settings(deadline=None)
@given_that(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3000)), min_size=1, max_size=9),
    st.integers(1, 16),
    st.integers(1, 40),
)
def test_programs_see_every_key_once_and_fit_into_the_scratch(
    sequences: list[tuple[int, int]], tokens: int, pieces: int
) -> None:
    queries = np.array([n for n, _ in sequences])
    found = plan_tiles(0, queries, queries + [before for _, before in sequences], tokens, pieces)
    tiles: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for _, token, count, position, begin, end, place, split, splits in found.T.tolist():
        assert splits == 1 or place + splits <= 2 * pieces
        assert split < splits
        tiles.setdefault((token, position + count), []).append((begin, end))
    assert sum(token < queries.sum() for token, _ in tiles) == len(tiles) <= found.shape[1]
    assert found.shape[1] <= len(tiles) + pieces
    for (_, keys), ranges in tiles.items():
        edges = sorted(ranges)
        assert [edges[0][0], *(end for _, end in edges)] == [*(begin for begin, _ in edges), keys]


def test_a_mixed_batch_is_the_torch_reference(device: torch.device) -> None:
    case = Case(9, 3, context_lens=(1, 77, 30, 64), query_lens=(1, 1, 30, 20), dtype=torch.float16)
    given, shape = batch(case, device), HeadShape(9, 3, 64)
    wanted = reference.paged_attention(
        given.q, *given.caches, reference.plan_attention(given.layout, None, device), case.dim**-0.5
    )
    plan = plan_attention(given.layout, None, device, shape)
    torch.testing.assert_close(
        paged_attention(given.q, given.caches[0], given.caches[1], plan, case.dim**-0.5),
        wanted,
        atol=2e-3,
        rtol=2e-3,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("context", [2016, 16384])
@pytest.mark.parametrize("queries", [1, 2, 16, 64])
@pytest.mark.parametrize("heads", [(32, 8), (28, 4), (64, 8)])
def test_short_chunks_after_long_prefixes(
    heads: tuple[int, int], queries: int, context: int, device: torch.device
) -> None:
    case = Case(*heads, 128, context_lens=(context, 40), query_lens=(queries, 2), dtype=torch.bfloat16)
    check(case, device)


@pytest.mark.parametrize("programs", [1, 12])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (40, 5.0)])
def test_a_cache_in_fp8_is_read_with_its_scales(
    window: int | None, soft_cap: float | None, programs: int, device: torch.device
) -> None:
    more = {"window": window, "soft_cap": soft_cap, "scales": (0.5, 3.0)}
    check(Case(9, 3, 80, context_lens=(90, 7), query_lens=(1, 1), **more), device, programs)
    check(Case(context_lens=(33, 60), query_lens=(1, 50), dtype=torch.bfloat16, **more), device, programs)


def test_the_reference_reads_a_cache_in_fp8(device: torch.device) -> None:
    case = Case(9, 3, context_lens=(1, 77, 30), query_lens=(1, 1, 30), scales=(0.5, 3.0))
    given = batch(case, device)
    plan = reference.plan_attention(given.layout, None, device)
    found = reference.paged_attention(given.q, *given.caches, plan, case.dim**-0.5 * 0.5, 3.0)
    torch.testing.assert_close(found.double(), dense(case, given), atol=1e-4, rtol=1e-4)


MIXED = (1, 17, 700, 1500, 33, 300, 1000), (1, 1, 1, 1, 33, 100, 257)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(32, 8), (28, 4), (9, 3), (16, 16), (64, 4)])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_mixed_batches_of_all_heads(dim: int, heads: tuple[int, int], device: torch.device) -> None:
    check(Case(*heads, dim, 16, *MIXED, dtype=torch.bfloat16), device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_mixed_batches_over_a_cache_in_fp8(dim: int, dtype: torch.dtype, device: torch.device) -> None:
    check(Case(32, 8, dim, 16, *MIXED, dtype=dtype, scales=(0.5, 2.0)), device)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8, 64, 256])
def test_decodes_of_real_sizes_over_a_cache_in_fp8(rows: int, device: torch.device) -> None:
    lens = tuple(int(n) for n in np.random.default_rng(rows).integers(1, 3000, rows))
    shape = {"context_lens": lens, "query_lens": (1,) * rows}
    check(Case(32, 8, 128, **shape, dtype=torch.bfloat16, scales=(1.0, 1.0)), device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_mixed_batches_of_other_dtypes(dim: int, dtype: torch.dtype, device: torch.device) -> None:
    check(Case(14, 2, dim, 32, *MIXED, dtype=dtype), device)


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "soft_cap"), [(100, None), (None, 30.0), (1024, 30.0)])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_mixed_batches_with_window_and_soft_cap(
    dim: int, window: int | None, soft_cap: float | None, device: torch.device
) -> None:
    check(Case(14, 2, dim, 16, *MIXED, window=window, soft_cap=soft_cap, dtype=BF16), device)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 100, 1024])
@pytest.mark.parametrize("rows", [1, 2, 8, 33, 256])
def test_decodes_of_real_sizes(rows: int, window: int | None, device: torch.device) -> None:
    lens = tuple(int(n) for n in np.random.default_rng(rows).integers(1, 3000, rows))
    check(
        Case(32, 8, 128, context_lens=lens, query_lens=(1,) * rows, window=window, dtype=torch.bfloat16),
        device,
    )


@pytest.mark.gpu
def test_a_captured_decode_serves_other_lengths(device: torch.device) -> None:
    case = Case(32, 8, 128, context_lens=(900, 1, 333), query_lens=(1, 1, 1), dtype=torch.bfloat16)
    given = batch(case, device)
    tables = torch.from_numpy(given.layout.block_tables).to(device)
    lens = torch.ones(3, dtype=torch.int32, device=device)
    scratch = DecodeScratch.allocate(3, 32, 8, 128, device)
    keys, values = given.caches
    paged_decode(given.q, keys, values, tables, lens, 128**-0.5, scratch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = paged_decode(given.q, keys, values, tables, lens, 128**-0.5, scratch)
    lens.copy_(torch.tensor(case.context_lens, dtype=torch.int32))
    graph.replay()
    wanted = dense(case, given)
    assert ((out.double() - wanted).norm() / wanted.norm()).item() < 1e-2


@pytest.mark.gpu
def test_split_decodes_give_the_same_bits_each_time(device: torch.device) -> None:
    case = Case(32, 8, 128, context_lens=(5000, 3, 900), query_lens=(1, 1, 1), dtype=torch.bfloat16)
    given, shape = batch(case, device), HeadShape(32, 8, 128)
    plan = plan_attention(given.layout, None, device, shape)
    first = paged_attention(given.q, given.caches[0], given.caches[1], plan, 0.1)
    for _ in range(50):
        assert torch.equal(paged_attention(given.q, given.caches[0], given.caches[1], plan, 0.1), first)
