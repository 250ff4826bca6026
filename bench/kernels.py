"""Each GPU kernel's time, and what share of the memory or matrix limit it reaches, beside torch's own
operators.

Usage: python bench/kernels.py [--only NAME] [--out FILE]. Sizes are those of Llama 3.1 8B.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from gpu_timing import Work, copy_bandwidth, matmul_rate, median_seconds
from octavo_engine.runner.kernels.attention import SequenceLayout
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.runner.kernels.triton import activation, adjust, cache, gemv, norm, rope, sampling
from octavo_engine.runner.kernels.triton.attention import (
    paged_attention,
    plan_attention,
)

HIDDEN, INTERMEDIATE, VOCAB, LAYERS = 4096, 14336, 128256, 32
SHAPE = HeadShape(32, 8, 128)
BLOCK_SIZE = 16
CUDA = torch.device("cuda")
PAST_THE_CACHE = 256 << 20  # bytes of buffers in turn
PRODUCTS = {
    "qkv": (6144, HIDDEN),
    "out": (HIDDEN, HIDDEN),
    "gate_up": (2 * INTERMEDIATE, HIDDEN),
    "down": (HIDDEN, INTERMEDIATE),
    "head": (VOCAB, HIDDEN),
}


@dataclass(frozen=True)
class Case:
    """``works`` do the same on buffers in turn; ``flops`` None: the limit is memory."""

    kernel: str
    size: str
    works: list[Work]
    bytes: float
    flops: float | None = None
    peer: list[Work] | None = None  # torch's own way


@dataclass(frozen=True)
class Row:
    kernel: str
    size: str
    microseconds: float
    share: float  # of the limit
    limit: str
    peer_microseconds: float | None


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=CUDA, dtype=torch.bfloat16)


def copies(size_bytes: float) -> int:
    return max(1, min(64, int(PAST_THE_CACHE // size_bytes)))


def elementwise(tokens: int) -> Iterator[Case]:
    weight = bf16(HIDDEN)
    nbytes = 8 * tokens * HIDDEN
    pairs = [(bf16(tokens, HIDDEN), bf16(tokens, HIDDEN)) for _ in range(copies(nbytes))]
    yield Case(
        "add_rms_norm", f"{tokens}", [lambda p=p: norm.add_rms_norm(*p, weight, 1e-5) for p in pairs], nbytes
    )
    nbytes = 6 * tokens * INTERMEDIATE
    wide = [bf16(tokens, 2 * INTERMEDIATE) for _ in range(copies(nbytes))]
    yield Case("silu_and_mul", f"{tokens}", [lambda x=x: activation.silu_and_mul(x) for x in wide], nbytes)
    yield rope_case(tokens)


def rope_case(tokens: int) -> Case:
    width = SHAPE.heads + 2 * SHAPE.kv_heads
    nbytes = 4 * tokens * width * SHAPE.head_dim
    angle = torch.rand(tokens, 1, SHAPE.head_dim // 2, device=CUDA)
    inputs = [bf16(tokens, width, SHAPE.head_dim) for _ in range(copies(nbytes))]
    caches = bf16(2, tokens // BLOCK_SIZE + 1, BLOCK_SIZE, SHAPE.kv_heads, SHAPE.head_dim)
    slots = torch.randperm(tokens, device=CUDA)

    def work(qkv: torch.Tensor) -> Work:
        return lambda: rope.rope_and_cache(qkv, angle, angle, caches[0], caches[1], slots)

    return Case("rope_and_cache", f"{tokens}", [work(x) for x in inputs], nbytes)


def layout_of(query_lens: list[int], context_lens: list[int]) -> SequenceLayout:
    width = -(-max(context_lens) // BLOCK_SIZE)
    tables = np.random.default_rng(0).permutation(len(query_lens) * width).reshape(-1, width).astype(np.int32)
    decodes = sum(n == 1 for n in query_lens)
    return SequenceLayout(tables, np.array(context_lens), np.array(query_lens), decodes, BLOCK_SIZE, 0)


def attention_work(layout: SequenceLayout) -> Callable[[torch.Tensor, torch.Tensor], Work]:
    plan = plan_attention(layout, None, CUDA, SHAPE)
    return lambda q, kv: lambda: paged_attention(q, kv[0], kv[1], plan, SHAPE.head_dim**-0.5)


def decode_case(rows: int, context: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    layout = layout_of([1] * rows, [context] * rows)
    nbytes = rows * context * 2 * dtype.itemsize * SHAPE.kv_heads * SHAPE.head_dim
    shape = (2, layout.block_tables.size, BLOCK_SIZE, SHAPE.kv_heads, SHAPE.head_dim)
    caches = [bf16(*shape).to(dtype) for _ in range(copies(nbytes))]
    work, q = attention_work(layout), bf16(rows, SHAPE.heads, SHAPE.head_dim)
    name = "paged_decode" if dtype is torch.bfloat16 else "paged_decode fp8"
    return Case(name, f"{rows} x {context}", [work(q, kv) for kv in caches], nbytes)


def prefill_case(sequences: int, tokens: int, context: int) -> Case:
    layout = layout_of([tokens] * sequences, [context] * sequences)
    pairs = sequences * (tokens * context - tokens * (tokens - 1) / 2)
    q = bf16(sequences * tokens, SHAPE.heads, SHAPE.head_dim)
    kv = bf16(2, layout.block_tables.size, BLOCK_SIZE, SHAPE.kv_heads, SHAPE.head_dim)
    peer: list[Work] | None = None
    if tokens == context:
        dense = bf16(sequences, SHAPE.heads, tokens, SHAPE.head_dim)
        k = bf16(sequences, SHAPE.kv_heads, tokens, SHAPE.head_dim)
        peer = [lambda: F.scaled_dot_product_attention(dense, k, k, is_causal=True, enable_gqa=True)]
    flops = 4 * pairs * SHAPE.heads * SHAPE.head_dim
    size = f"{sequences} x {tokens} of {context}"
    return Case("paged_prefill", size, [attention_work(layout)(q, kv)], 2 * q.nbytes + kv.nbytes, flops, peer)


def product_case(name: str, rows: int) -> Case:
    columns, inner = PRODUCTS[name]
    weights = [bf16(columns, inner) for _ in range(copies(2 * columns * inner))]
    x = bf16(rows, inner)
    product = gemv.SmallProducts(CUDA)
    works: list[Work] = [lambda w=w: product.linear(x, w) for w in weights]
    peer: list[Work] = [lambda w=w: F.linear(x, w) for w in weights]
    return Case("linear", f"{name} {rows}", works, weights[0].nbytes, None, peer)


FILTERS = {
    "": (0, 1.0, 3.0),
    "top_k top_p": (50, 0.9, 3.0),
    "top_p": (0, 0.9, 8.0),
    "top_p flat": (0, 0.9, 1.0),
}


def sampling_case(rows: int, filters: str) -> Case:
    """The third number of ``FILTERS`` is the logits' deviation: the larger, the fewer tokens count."""
    top_k, top_p, deviation = FILTERS[filters]
    full = {"device": CUDA, "size": (rows,)}
    columns = sampling.SamplingColumns(
        torch.full(fill_value=1.0, **full),
        torch.full(fill_value=top_k, dtype=torch.int32, **full),
        torch.full(fill_value=top_p, **full),
        torch.full(fill_value=0.0, **full),
        torch.arange(rows, device=CUDA),
        torch.arange(rows, device=CUDA),
    )
    logits = [deviation * bf16(rows, VOCAB) for _ in range(copies(2 * rows * VOCAB))]
    filtered = bool(filters)
    works: list[Work] = [lambda x=x: sampling.sample(x, columns, filtered=filtered) for x in logits]
    return Case(f"sample {filters}".strip(), f"{rows}", works, 2 * rows * VOCAB)


def adjust_case(rows: int) -> Case:
    """Every row has penalties and a bias."""
    memory = adjust.LogitMemory(
        torch.zeros(rows, VOCAB, dtype=torch.int32, device=CUDA),
        torch.zeros(rows, VOCAB, device=CUDA),
        torch.ones(adjust.KNOBS, rows, device=CUDA),
    )
    index = torch.arange(rows, device=CUDA)
    logits = [bf16(rows, VOCAB) for _ in range(copies(14 * rows * VOCAB))]
    works: list[Work] = [lambda x=x: adjust.adjust(x, index, index, memory) for x in logits]
    return Case("adjust_logits", f"{rows}", works, 14 * rows * VOCAB)


def copy_case(blocks: int) -> Case:
    kv = bf16(LAYERS, 2, 4 * blocks, BLOCK_SIZE, SHAPE.kv_heads, SHAPE.head_dim)
    order = torch.randperm(4 * blocks, device=CUDA)
    nbytes = 2 * blocks * kv[:, :, 0].nbytes
    work: Work = lambda: cache.copy_blocks(kv, kv, order[:blocks], order[blocks : 2 * blocks])  # noqa: E731
    return Case("copy_blocks", f"{blocks}", [work], nbytes)


def cases() -> Iterator[Case]:
    for tokens in (1, 32, 256, 4096):
        yield from elementwise(tokens)
    for rows, context in (
        (1, 576),
        (8, 576),
        (32, 576),
        (128, 576),
        (256, 576),
        (1, 16384),
        (8, 4096),
        (64, 4096),
    ):
        yield decode_case(rows, context)
    for sequences, tokens, context in ((1, 512, 512), (4, 2048, 2048), (1, 8192, 8192), (1, 2048, 8192)):
        yield prefill_case(sequences, tokens, context)
    for name in PRODUCTS:
        for rows in (1, 2, 4, 8, 16):
            yield product_case(name, rows)
    for rows in (1, 8, 32, 128, 256):
        for filters in FILTERS:
            yield sampling_case(rows, filters)
        yield adjust_case(rows)
    yield copy_case(256)


def measure(case: Case, bandwidth: float, rate: float) -> Row:
    seconds = median_seconds(case.works)
    by_memory, by_matrix = case.bytes / bandwidth, (case.flops or 0) / rate
    limit = "matrix" if by_matrix > by_memory else "memory"
    peer = median_seconds(case.peer) * 1e6 if case.peer else None
    return Row(case.kernel, case.size, seconds * 1e6, max(by_memory, by_matrix) / seconds, limit, peer)


def run(cases: Callable[[], Iterator[Case]]) -> None:
    """The program: measure ``cases``, print them, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure only kernels whose name holds this")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    bandwidth, rate = copy_bandwidth(), matmul_rate()
    card = torch.cuda.get_device_name()
    print(f"{card}: copy {bandwidth / 1e12:.2f} TB/s, bf16 product {rate / 1e12:.0f} TFLOP/s")
    print(f"{'kernel':22} {'size':18} {'us':>9} {'share':>6} limit   torch us")
    rows = []
    for case in cases():
        if arguments.only in case.kernel:
            rows.append(measure(case, bandwidth, rate))
            show(rows[-1])
        torch.cuda.empty_cache()
    if arguments.out:
        report = {"card": card, "copy_bytes_s": bandwidth, "matmul_flop_s": rate}
        arguments.out.write_text(json.dumps({**report, "kernels": [asdict(row) for row in rows]}, indent=1))


def show(row: Row) -> None:
    peer = f"{row.peer_microseconds:8.1f}" if row.peer_microseconds else ""
    print(
        f"{row.kernel:22} {row.size:18} {row.microseconds:9.1f} {row.share:6.0%} {row.limit} {peer}",
        flush=True,
    )


if __name__ == "__main__":
    run(cases)
