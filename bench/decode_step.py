"""One decode step of Llama 3.1 8B made of the kernels alone: how near a step comes to reading everything
once.

Usage: python bench/decode_step.py [--rows 1 8 ...]. Weights and cache are random; tensor shapes are all that
counts. The floor is the bytes of weights and cache over the measured copy bandwidth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels as bench
from gpu_timing import copy_bandwidth, median_seconds
from octavo_engine.runner.kernels import fp8 as reference
from octavo_engine.runner.kernels.fp8 import Quantized
from octavo_engine.runner.kernels.triton import gemv, launch
from octavo_engine.runner.kernels.triton.activation import silu_and_mul
from octavo_engine.runner.kernels.triton.attention import PagedPlan, paged_attention, plan_attention
from octavo_engine.runner.kernels.triton.fp8 import quantize
from octavo_engine.runner.kernels.triton.fp8_products import Products
from octavo_engine.runner.kernels.triton.norm import add_rms_norm, add_rms_norm_fp8, rms_norm
from octavo_engine.runner.kernels.triton.rope import rope_and_cache
from octavo_engine.runner.kernels.triton.sampling import SamplingColumns, sample

CONTEXT = 576
Linear = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    layers: list[dict[str, Tensor]]
    head: Tensor
    norm: Tensor

    @classmethod
    def random(cls) -> Weights:
        names = [name for name in bench.PRODUCTS if name != "head"]
        layers = [
            {name: 0.02 * bench.bf16(*bench.PRODUCTS[name]) for name in names} for _ in range(bench.LAYERS)
        ]
        return cls(layers, 0.02 * bench.bf16(*bench.PRODUCTS["head"]), bench.bf16(bench.HIDDEN))

    @property
    def nbytes(self) -> int:
        return self.head.nbytes + sum(w.nbytes for layer in self.layers for w in layer.values())


@dataclass(frozen=True)
class Batch:
    hidden: Tensor
    residual: Tensor
    caches: list[Tensor]
    plan: PagedPlan
    slots: Tensor
    angle: Tensor
    columns: SamplingColumns

    @classmethod
    def random(cls, rows: int) -> Batch:
        layout = bench.layout_of([1] * rows, [CONTEXT] * rows)
        shape = (2, layout.block_tables.size, bench.BLOCK_SIZE, bench.SHAPE.kv_heads, bench.SHAPE.head_dim)
        ones, count = torch.ones(rows, device=bench.CUDA), torch.arange(rows, device=bench.CUDA)
        return cls(
            bench.bf16(rows, bench.HIDDEN),
            bench.bf16(rows, bench.HIDDEN),
            [bench.bf16(*shape) for _ in range(bench.LAYERS)],
            plan_attention(layout, None, bench.CUDA, bench.SHAPE),
            torch.from_numpy(layout.block_tables[:, -1]).cuda().long() * bench.BLOCK_SIZE
            + bench.BLOCK_SIZE
            - 1,
            torch.rand(rows, 1, bench.SHAPE.head_dim // 2, device=bench.CUDA),
            SamplingColumns(ones, ones.int() * 0, ones, ones * 0, count, count),
        )

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)


def step(weights: Weights, batch: Batch, linear: Linear, gated: Linear) -> Tensor:
    x, residual = batch.hidden, batch.residual
    for layer, cache in zip(weights.layers, batch.caches, strict=True):
        x, residual = add_rms_norm(x, residual, weights.norm, 1e-5)
        qkv = linear(x, layer["qkv"]).view(x.shape[0], -1, bench.SHAPE.head_dim)
        q = rope_and_cache(qkv, batch.angle, batch.angle, cache[0], cache[1], batch.slots)
        x = linear(paged_attention(q, cache[0], cache[1], batch.plan, 0.088).flatten(1), layer["out"])
        x, residual = add_rms_norm(x, residual, weights.norm, 1e-5)
        x = linear(gated(x, layer["gate_up"]), layer["down"])
    logits = linear(rms_norm(x, weights.norm, 1e-5), weights.head)
    return sample(logits, batch.columns, filtered=False)[0]


def step_fp8(
    layers: list[dict[str, Quantized]], weights: Weights, batch: Batch, products: Products, head: Linear
) -> Tensor:
    """The same in FP8; the head stays in bfloat16."""
    x, residual, dtype = batch.hidden, batch.residual, torch.bfloat16
    for layer, cache in zip(layers, batch.caches, strict=True):
        normed, residual = add_rms_norm_fp8(x, residual, weights.norm, 1e-5)
        qkv = products.linear(normed, layer["qkv"], None, dtype).view(x.shape[0], -1, bench.SHAPE.head_dim)
        q = rope_and_cache(qkv, batch.angle, batch.angle, cache[0], cache[1], batch.slots)
        attended = paged_attention(q, cache[0], cache[1], batch.plan, 0.088).flatten(1)
        x = products.linear(quantize(attended), layer["out"], None, dtype)
        normed, residual = add_rms_norm_fp8(x, residual, weights.norm, 1e-5)
        gated = products.gated_quantized(normed, layer["gate_up"], None, "silu", dtype)
        x = products.linear(gated, layer["down"], None, dtype)
    logits = head(rms_norm(x, weights.norm, 1e-5), weights.head)
    return sample(logits, batch.columns, filtered=False)[0]


def measure_fp8(weights: Weights, rows: int, bandwidth: float) -> None:
    """With the cache in bfloat16 and in FP8."""
    layers = [{name: reference.quantize(w) for name, w in layer.items()} for layer in weights.layers]
    nbytes = weights.head.nbytes + sum(w.values.nbytes for layer in layers for w in layer.values())
    products, head = Products(bench.CUDA), gemv.SmallProducts(bench.CUDA).linear
    for name, dtype in (("FP8", torch.bfloat16), ("FP8, cache in FP8", reference.FP8)):
        batch = Batch.random(rows)
        batch = replace(batch, caches=[cache.to(dtype) for cache in batch.caches])
        floor = (nbytes + batch.nbytes) / bandwidth
        work = partial(step_fp8, layers, weights, batch, products, head)
        seconds = median_seconds([work], launches=2, runs=9)
        print(
            f"   {name:32} {seconds * 1e3:7.3f} ms  {floor / seconds:4.0%} of {floor * 1e3:.2f} ms",
            flush=True,
        )


def ways() -> dict[str, tuple[bool, Linear, Linear]]:
    """Name -> (whether kernels overlap, the products, the gated product)."""
    own = gemv.SmallProducts(bench.CUDA)

    def gated(x: Tensor, w: Tensor) -> Tensor:
        return silu_and_mul(F.linear(x, w))

    return {
        "cuBLAS": (False, F.linear, gated),
        "own products": (False, own.linear, own.gated),
        "own products, overlapped": (True, own.linear, own.gated),
    }


def measure(weights: Weights, rows: int, bandwidth: float) -> None:
    batch = Batch.random(rows)
    floor = (weights.nbytes + batch.nbytes) / bandwidth
    print(f"{rows} rows: floor {floor * 1e3:.2f} ms")
    original = launch.overlaps
    for name, (overlapped, linear, gated) in ways().items():
        launch.overlaps = original if overlapped else lambda x: False
        work = partial(step, weights, batch, linear, gated)
        seconds = median_seconds([work], launches=2, runs=9)
        print(f"   {name:32} {seconds * 1e3:7.3f} ms  {floor / seconds:4.0%}", flush=True)
    launch.overlaps = original


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 32, 128, 256])
    bandwidth, weights = copy_bandwidth(), Weights.random()
    for rows in parser.parse_args().rows:
        measure(weights, rows, bandwidth)
        measure_fp8(weights, rows, bandwidth)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
