"""As bench/kernels.py, for the kernels in FP8; products beside torch's own (cuBLAS).

Usage: PYTHONPATH=engine python bench/kernels_fp8.py [--only NAME] [--out FILE].
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import kernels as bench
from gpu_timing import Work
from octavo_engine.runner.kernels import fp8 as reference
from octavo_engine.runner.kernels.fp8 import FP8, Quantized
from octavo_engine.runner.kernels.triton import fp8, norm
from octavo_engine.runner.kernels.triton.fp8_products import Products, large_product

DECODES = ((1, 576), (8, 576), (32, 576), (128, 576), (256, 576), (8, 4096), (64, 4096), (1, 16384))


def quantized(rows: int, inner: int) -> Quantized:
    return reference.quantize(bench.bf16(rows, inner))


def elementwise(tokens: int) -> Iterator[bench.Case]:
    hidden, wide = bench.HIDDEN, bench.INTERMEDIATE
    weight, size = bench.bf16(hidden), f"{tokens}"
    count = bench.copies(7 * tokens * hidden)
    pairs = [(bench.bf16(tokens, hidden), bench.bf16(tokens, hidden)) for _ in range(count)]
    norms: list[Work] = [lambda p=p: norm.add_rms_norm_fp8(*p, weight, 1e-5) for p in pairs]
    yield bench.Case("add_rms_norm_fp8", size, norms, 7 * tokens * hidden)
    inputs = [bench.bf16(tokens, 2 * wide) for _ in range(bench.copies(5 * tokens * wide))]
    gates: list[Work] = [lambda x=x: fp8.gate(x, "silu") for x in inputs]
    yield bench.Case("gate_fp8", size, gates, 5 * tokens * wide)
    for width in (hidden, wide):
        narrow = [x[:, :width] for x in inputs]
        rounds: list[Work] = [lambda x=x: fp8.quantize(x) for x in narrow]
        yield bench.Case("quantize_fp8", f"{tokens} x {width}", rounds, 3 * tokens * width)


def product_case(name: str, rows: int) -> bench.Case:
    """At ``gate_up`` with SiLU x up on both sides, as layers want it."""
    columns, inner = bench.PRODUCTS[name]
    weights = [quantized(columns, inner) for _ in range(bench.copies(columns * inner))]
    x, own, dtype = quantized(rows, inner), Products(bench.CUDA), torch.bfloat16

    def torchs(w: Quantized) -> object:
        found = large_product(x, w, None, dtype)
        return fp8.gate(found, "silu") if name == "gate_up" else found

    def owns(w: Quantized) -> object:
        if name == "gate_up":
            return own.gated_quantized(x, w, None, "silu", dtype)
        return own.linear(x, w, None, dtype)

    works: list[Work] = [lambda w=w: owns(w) for w in weights]
    peer: list[Work] = [lambda w=w: torchs(w) for w in weights]
    return bench.Case("linear_fp8", f"{name} {rows}", works, columns * inner, None, peer)


def cases() -> Iterator[bench.Case]:
    for tokens in (1, 32, 256, 4096):
        yield from elementwise(tokens)
    for name in bench.PRODUCTS:
        for rows in (1, 8, 16, 32, 64, 128, 256):
            if name != "head":  # stays in bfloat16
                yield product_case(name, rows)
    for rows, context in DECODES:
        yield bench.decode_case(rows, context, FP8)


if __name__ == "__main__":
    bench.run(cases)
