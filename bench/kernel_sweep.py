"""Times each way of launching the products of few rows and the attention kernels, to choose their settings.

Usage: python bench/kernel_sweep.py [--only SWEEP ...] [--out FILE]. Kernels are compiled by several processes
first; then each setting is timed on the sizes of Llama 3.1 8B.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from triton.runtime.errors import OutOfResources

import kernels as bench
from gpu_timing import Work, median_seconds
from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.kernels.triton import fp8
from octavo_engine.runner.kernels.triton.attention import plan_attention
from octavo_engine.runner.kernels.triton.decode import DecodeConfig, DecodeScratch, paged_decode
from octavo_engine.runner.kernels.triton.fp8_products import Fp8Config, fp8_gemv, large_product
from octavo_engine.runner.kernels.triton.gemv import GemvConfig, GemvScratch, gemv
from octavo_engine.runner.kernels.triton.prefill import paged_prefill
from octavo_engine.runner.kernels.triton.prefill_tiles import (
    PrefillConfig,
    PrefillScratch,
    PrefillTiles,
    plan_tiles,
)

COMPILERS = 14
SMALL = {  # Qwen3 0.6B
    "small qkv": (4096, 1024),
    "small out": (1024, 2048),
    "small gate_up": (6144, 1024),
    "small down": (1024, 3072),
}


@dataclass(frozen=True)
class Trial:
    """``make`` builds the works of the setting on ``buffers`` made once a size."""

    size: str
    setting: str
    works: Callable[[], list[Work]]


def gemv_settings(rows: int) -> Iterator[GemvConfig]:
    if rows > 16:
        work = ((4, 4), (4, 6), (8, 4)) if rows <= 64 else ((4, 3), (8, 3), (4, 4), (8, 4))
        columns = (32, 64, 128) if rows <= 64 else (64, 128, 256)
        for n, inner, splits, (warps, stages) in itertools.product(columns, (64, 128), (1, 2, 4), work):
            yield GemvConfig(n, inner, splits, warps, stages)
        return
    for columns, inner, splits, stages in itertools.product((16, 32, 64), (128, 256), (1, 2, 4), (3, 5)):
        yield GemvConfig(columns, inner, splits, 4, stages)
    if rows == 1:
        tiles = (
            (4, 1024, 4),
            (8, 512, 4),
            (8, 1024, 8),
            (16, 256, 4),
            (16, 512, 8),
            (32, 256, 8),
            (2, 2048, 4),
        )
        for (columns, inner, warps), splits in itertools.product(tiles, (1, 2, 4)):
            yield GemvConfig(columns, inner, splits, warps, 3, dot=False)


def gemv_trials(products: dict[str, tuple[int, int]], many: tuple[int, ...]) -> Iterator[Trial]:
    scratch = GemvScratch.allocate(32768, 8, bench.CUDA)
    for name, (columns, inner) in products.items():
        weights = [bench.bf16(columns, inner) for _ in range(bench.copies(2 * columns * inner))]
        for rows in many:
            x = bench.bf16(rows, inner)
            yield Trial(f"{name} {rows}", "cublas", lambda: [lambda w=w: F.linear(x, w) for w in weights])  # noqa: B023
            for config, kind in itertools.product(gemv_settings(rows), ("none", "silu")):
                if (name == "head" and config.splits > 1) or (kind == "silu" and "gate_up" not in name):
                    continue

                def works(config: GemvConfig = config, kind: str = kind) -> list[Work]:
                    return [lambda w=w: gemv(x, w, None, config, scratch, kind) for w in weights]  # noqa: B023

                yield Trial(f"{name} {rows} {kind}", repr(config), works)


def decode_trials(dtype: torch.dtype = torch.bfloat16) -> Iterator[Trial]:
    for rows, context in (
        (1, 576),
        (8, 576),
        (32, 576),
        (128, 576),
        (256, 576),
        (8, 4096),
        (64, 4096),
        (1, 16384),
    ):
        layout = bench.layout_of([1] * rows, [context] * rows)
        plan = plan_attention(layout, None, bench.CUDA, bench.SHAPE)
        nbytes = rows * context * 2048 * dtype.itemsize
        shape = (2, layout.block_tables.size, bench.BLOCK_SIZE, bench.SHAPE.kv_heads, bench.SHAPE.head_dim)
        caches = [bench.bf16(*shape).to(dtype) for _ in range(bench.copies(nbytes))]
        q = bench.bf16(rows, bench.SHAPE.heads, bench.SHAPE.head_dim)
        assert plan.scratch is not None
        roomy = DecodeScratch.allocate(4 * rows + 64, 32, 8, 128, bench.CUDA)
        for tile, warps, stages, programs in itertools.product((32, 64, 128), (2, 4), (2, 3, 4), (1, 2, 4)):
            if programs > 1 and rows > 32:
                continue
            config = DecodeConfig(tile, warps, stages)
            scratch = replace(roomy, programs=plan.scratch.programs * programs // 2)

            def works(config: DecodeConfig = config, scratch: object = scratch) -> list[Work]:
                common = (plan.block_tables, plan.context_lens, 0.1, scratch)  # noqa: B023
                return [lambda kv=kv: paged_decode(q, kv[0], kv[1], *common, config=config) for kv in caches]  # noqa: B023

            size = f"decode {rows} x {context} {dtype}"
            yield Trial(size, f"{config} programs={programs}", works)


def prefill_trials() -> Iterator[Trial]:
    for tokens, context in ((512, 512), (2048, 2048), (8192, 8192), (2048, 8192)):
        layout = bench.layout_of([tokens], [context])
        tables = torch.from_numpy(layout.block_tables).cuda()
        q = bench.bf16(tokens, bench.SHAPE.heads, bench.SHAPE.head_dim)
        out = torch.empty_like(q)
        kv = bench.bf16(
            2, layout.block_tables.size, bench.BLOCK_SIZE, bench.SHAPE.kv_heads, bench.SHAPE.head_dim
        )
        for (rows, warps), tile, stages in itertools.product(
            ((64, 4), (128, 4), (128, 8)), (32, 64, 128), (2, 3, 4)
        ):
            config = PrefillConfig(rows, tile, warps, stages)
            share = bench.SHAPE.heads // bench.SHAPE.kv_heads
            scratch = PrefillScratch.allocate(bench.SHAPE.kv_heads, bench.SHAPE.head_dim, bench.CUDA)
            plan = plan_tiles(0, layout.query_lens, layout.context_lens, rows // share, scratch.pieces)
            tiles = PrefillTiles(torch.from_numpy(plan).cuda(), rows // share, config, scratch)

            def works(tiles: PrefillTiles = tiles) -> list[Work]:
                return [lambda: paged_prefill(q, kv[0], kv[1], tables, tiles, 0.1, out)]  # noqa: B023

            yield Trial(f"prefill {tokens} of {context}", repr(config), works)


def fp8_settings(rows: int) -> Iterator[Fp8Config]:
    if rows == 1:
        tiles = (
            (8, 1024, 4),
            (8, 2048, 8),
            (16, 512, 4),
            (16, 1024, 4),
            (16, 1024, 8),
            (32, 512, 8),
            (4, 2048, 4),
        )
        for (columns, inner, warps), splits in itertools.product(tiles, (1, 2, 4)):
            yield Fp8Config(columns, inner, splits, warps, 3, dot=False)
    work = ((4, 3), (4, 4), (4, 5)) if rows <= 64 else ((4, 3), (8, 3), (8, 4))
    for n, inner, splits, (w, stages) in itertools.product((64, 128), (128, 256), (1, 2, 4), work):
        yield Fp8Config(n, inner, splits, w, stages)


def fp8_trials() -> Iterator[Trial]:
    """Products in FP8; at ``gate_up`` with the activation."""
    scratch = GemvScratch.allocate(32768, 8, bench.CUDA)
    for name, (columns, inner) in bench.PRODUCTS.items():
        if name == "head":
            continue
        count = bench.copies(columns * inner)
        weights = [fp8.quantize(bench.bf16(columns, inner)) for _ in range(count)]
        kind = "silu" if name == "gate_up" else "none"
        for rows in (1, 8, 32, 64, 128):
            x = fp8.quantize(bench.bf16(rows, inner))
            torchs = [lambda w=w: large_product(x, w, None, torch.bfloat16) for w in weights]  # noqa: B023
            yield Trial(f"{name} {rows} fp8", "cublas", lambda: torchs)  # noqa: B023
            for config in fp8_settings(rows):

                def works(config: Fp8Config = config) -> list[Work]:
                    common = (None, config, scratch, torch.bfloat16, kind)  # noqa: B023
                    return [lambda w=w: fp8_gemv(x, w, *common) for w in weights]  # noqa: B023

                yield Trial(f"{name} {rows} fp8", repr(config), works)


SWEEPS: dict[str, Callable[[], Iterator[Trial]]] = {
    "gemv": lambda: gemv_trials(bench.PRODUCTS, (1, 8)),
    "rows": lambda: gemv_trials(bench.PRODUCTS, (32, 64, 128)),
    "small": lambda: gemv_trials(SMALL, (1, 8)),
    "fp8": fp8_trials,
    "decode": decode_trials,
    "decode fp8": lambda: decode_trials(FP8),
    "prefill": prefill_trials,
}


def compile_part(sweeps: list[str], part: int) -> None:
    trials = itertools.chain.from_iterable(SWEEPS[name]() for name in sweeps)
    for index, trial in enumerate(trials):
        if index % COMPILERS == part:
            attempt(lambda trial=trial: trial.works()[0]())


def attempt(work: Callable[[], object]) -> object | None:
    """None for a setting that needs more shared memory or registers than there are."""
    try:
        return work()
    except OutOfResources:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SWEEPS, action="append")
    parser.add_argument("--out", type=Path, default=Path("sweep.json"))
    parser.add_argument("--compile", type=int)
    arguments = parser.parse_args()
    sweeps = arguments.only or list(SWEEPS)
    if arguments.compile is not None:
        compile_part(sweeps, arguments.compile)
        return
    chosen = [word for name in sweeps for word in ("--only", name)]
    command = [sys.executable, __file__, *chosen, "--compile"]
    for process in [subprocess.Popen([*command, str(part)]) for part in range(COMPILERS)]:
        process.wait()
    found: dict[str, list[tuple[float, str]]] = {}
    for name in sweeps:
        for trial in SWEEPS[name]():
            seconds = attempt(lambda trial=trial: median_seconds(trial.works(), launches=16, runs=5))
            if isinstance(seconds, float):
                found.setdefault(trial.size, []).append((seconds * 1e6, trial.setting))
    arguments.out.write_text(json.dumps({size: sorted(times) for size, times in found.items()}, indent=0))
    for size, times in found.items():
        print(size)
        for microseconds, setting in [*sorted(times)[:4], *(t for t in times if t[1] == "cublas")]:
            print(f"   {microseconds:9.2f} us  {setting}")


if __name__ == "__main__":
    main()
