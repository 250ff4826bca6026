"""Products in FP8: own kernels for few rows, torch's (cuBLAS) for many.

The own kernel computes the transposed product, so that the weight's columns are the rows that Hopper's FP8
tensor-core instruction wants 64 of at once, read from shared memory where they arrive: nothing is converted,
and all time goes into reading the weight once. Splits as in :mod:`.gemv`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels import fp8 as reference
from octavo_engine.runner.kernels.fp8 import Quantized
from octavo_engine.runner.kernels.triton import activation, fp8, launch
from octavo_engine.runner.kernels.triton.activation import activate
from octavo_engine.runner.kernels.triton.gemv import GemvScratch
from octavo_engine.runner.kernels.triton.launch import follow, release

MOST_ROWS = 64
_WIDEST_SPLIT = 8192  # columns of a product that is split
_MOST_SPLITS = 8
_ALIGNMENT = 16  # bytes; what cuBLAS asks of both dimensions of a weight


@dataclass(frozen=True, slots=True)
class Fp8Config:
    """How one product is shared out."""

    columns: int  # output columns a program
    inner: int  # elements of the inner dimension an iteration
    splits: int = 1
    warps: int = 4
    stages: int = 4
    dot: bool = True  # tensor cores; without, one row by multiply and add


def fp8_gemv(
    x: Quantized,
    weight: Quantized,
    bias: Tensor | None,
    config: Fp8Config,
    scratch: GemvScratch,
    dtype: torch.dtype,
    kind: str = "none",
) -> Tensor:
    """``x`` [rows, inner] times ``weight`` [columns, inner] transposed, plus ``bias``, in ``dtype``.

    ``kind`` as of :func:`.gemv.gemv`. Sums in float32, as far as the tensor cores do.
    """
    rows, inner = x.values.shape
    gated = kind != "none"
    columns = weight.values.shape[0] // 2 if gated else weight.values.shape[0]
    out = torch.empty(rows, columns, dtype=dtype, device=x.values.device)
    overlapped = launch.overlaps(x.values)
    even = inner % (config.inner * config.splits) == 0 and columns % config.columns == 0
    _fp8_kernel[(triton.cdiv(columns, config.columns), config.splits)](
        x.values, x.scales, weight.values, weight.scales, weight.scales if bias is None else bias, out,
        scratch.partials, scratch.counters, rows, columns, inner, x.values.stride(0), weight.values.stride(0),
        max(16, triton.next_power_of_2(rows)) if config.dot or rows > 1 else 1,
        config.columns, config.inner, config.splits, bias is not None, kind, even, overlapped,
        num_warps=config.warps, num_stages=config.stages, launch_pdl=overlapped,
    )  # fmt: skip
    return out


class Products:
    """Linear layers in FP8. One for each stream: launches share a scratch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scratch: GemvScratch | None = None

    def linear(
        self, x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype, kind: str = "none"
    ) -> Tensor:
        """As the reference; with ``kind``, the rows of ``weight`` are two projections and the result is
        gated."""
        config = choose_config(x.values.shape[0], *weight.values.shape)
        if config is not None:
            return fp8_gemv(x, weight, bias, config, self._shared(), dtype, kind)
        found = large_product(x, weight, bias, dtype)
        return found if kind == "none" else activation.gate(found, kind)

    def gated(
        self, x: Quantized, weight: Quantized, bias: Tensor | None, kind: str, dtype: torch.dtype
    ) -> Tensor:
        return self.linear(x, weight, bias, dtype, kind)

    def gated_quantized(
        self, x: Quantized, weight: Quantized, bias: Tensor | None, kind: str, dtype: torch.dtype
    ) -> Quantized:
        if choose_config(x.values.shape[0], *weight.values.shape) is not None:
            return fp8.quantize(self.linear(x, weight, bias, dtype, kind))
        return fp8.gate(large_product(x, weight, bias, dtype), kind)

    def _shared(self) -> GemvScratch:
        """Made for the first product: models without FP8 need none."""
        if self._scratch is None:
            self._scratch = GemvScratch.allocate(_WIDEST_SPLIT, _MOST_SPLITS, self._device, MOST_ROWS)
        return self._scratch


def large_product(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Through torch; what cuBLAS cannot take is computed by the reference."""
    if not x.values.is_cuda or any(size % _ALIGNMENT for size in weight.values.shape):
        return reference.linear(x, weight, bias, dtype)
    if dtype is torch.bfloat16:
        return torch._scaled_mm(
            x.values, weight.values.T, x.scales[:, None], weight.scales[None, :], bias,
            out_dtype=dtype, use_fast_accum=True,
        )  # fmt: skip
    one = torch.ones((), dtype=torch.float32, device=x.values.device)
    total = torch._scaled_mm(x.values, weight.values.T, one, one, out_dtype=torch.float32)
    scaled = total.mul_(x.scales[:, None]).mul_(weight.scales)
    return (scaled if bias is None else scaled.add_(bias)).to(dtype)


def choose_config(rows: int, columns: int, inner: int) -> Fp8Config | None:
    """The way for a product of these sizes, or None where torch's is faster."""
    if not 0 < rows <= MOST_ROWS:
        return None
    return _one_row(columns) if rows == 1 else _some_rows(rows, columns)


def _one_row(columns: int) -> Fp8Config:
    """Multiply and add; fewer columns a program where there are few, so that all multiprocessors read."""
    if columns > 8192:
        return Fp8Config(16, 512, warps=4, dot=False)
    if columns > 2048:
        return Fp8Config(16, 1024, warps=8, dot=False)
    return Fp8Config(8, 1024, warps=8, dot=False)


def _some_rows(rows: int, columns: int) -> Fp8Config:
    """Tiles of which two or three fit into a multiprocessor's shared memory, and a program for each place.

    From 33 rows on a program takes more columns: all of them read the activations again, from the L2 cache.
    """
    splits = 1 if columns > 8192 else 2 if columns > 4096 else 4
    if rows <= 16:
        return Fp8Config(64, 256, splits)
    if rows <= 32:
        return Fp8Config(64, 128, splits)
    return Fp8Config(128, 128, splits if columns > 8192 else 4, warps=8)


@triton.jit(do_not_specialize=["rows"])
def _fp8_kernel(
    x, x_scales, weight, w_scales, bias, out, partials, counters, rows, columns, inner, x_stride, w_stride,
    row_block: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, splits: tl.constexpr,
    biased: tl.constexpr, kind: tl.constexpr, even: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    row, column = tl.arange(0, row_block), tile * block_n + tl.arange(0, block_n)
    share = tl.cdiv(tl.cdiv(inner, block_k), splits) * block_k
    begin, end = split * share, tl.minimum(inner, (split + 1) * share)
    follow(overlapped)
    gate = _product(
        x, weight, row, column, rows, columns, begin, end, x_stride, w_stride,
        row_block, block_n, block_k, even,
    )  # fmt: skip
    kept = (column < columns)[:, None] & (row < rows)[None, :]
    up = gate
    if kind != "none":
        up = _product(
            x, weight + columns.to(tl.int64) * w_stride, row, column, rows, columns, begin, end,
            x_stride, w_stride, row_block, block_n, block_k, even,
        )  # fmt: skip
    release(overlapped)
    if splits == 1:
        _finish(gate, up, x_scales, w_scales, bias, out, row, column, rows, columns, kept, biased, kind)
    else:
        plane = rows * columns
        place = row[None, :] * columns + column[:, None]
        tl.store(partials + split * plane + place, gate, mask=kept)
        if kind != "none":
            tl.store(partials + (splits + split) * plane + place, up, mask=kept)
        tl.debug_barrier()  # the counter speaks for the stores of all threads
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == splits - 1:
            tl.store(counters + tile, 0)
            gate = _collect(partials + place, kept, plane, row_block, block_n, splits)
            up = gate
            if kind != "none":
                up = _collect(partials + splits * plane + place, kept, plane, row_block, block_n, splits)
            _finish(gate, up, x_scales, w_scales, bias, out, row, column, rows, columns, kept, biased, kind)


@triton.jit
def _product(
    x, weight, row, column, rows, columns, begin, end, x_stride, w_stride,
    row_block: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, even: tl.constexpr,
):  # fmt: skip
    """[block_n, row_block] float32, unscaled, of the inner range [begin, end)."""
    k = tl.arange(0, block_k)
    w_rows = weight + column.to(tl.int64)[:, None] * w_stride + k[None, :]
    valid = (column < columns)[:, None]
    if row_block == 1:
        # The 16 numbers that a thread reads at once are summed up at once: few registers hold the sums.
        wide = tl.zeros([block_n, block_k // 16], tl.float32)
        for start in range(begin, end, block_k):
            inside = start + k < end
            a = tl.load(x + start + k, mask=inside, other=0.0)
            if even:
                b = tl.load(w_rows + start)
            else:
                b = tl.load(w_rows + start, mask=valid & inside[None, :], other=0.0)
            part = b.to(tl.float32) * a.to(tl.float32)[None, :]
            wide += tl.sum(tl.reshape(part, [block_n, block_k // 16, 16]), axis=2)
        acc = tl.sum(wide, axis=1)[:, None]
    else:
        acc = tl.zeros([block_n, row_block], tl.float32)
        x_rows = x + row[:, None] * x_stride + k[None, :]
        for start in range(begin, end, block_k):
            inside = start + k < end
            if even:
                a = tl.load(x_rows + start, mask=(row < rows)[:, None], other=0.0)
                b = tl.load(w_rows + start)
            else:
                a = tl.load(x_rows + start, mask=(row < rows)[:, None] & inside[None, :], other=0.0)
                b = tl.load(w_rows + start, mask=valid & inside[None, :], other=0.0)
            acc = tl.dot(b, tl.trans(a), acc)
    return acc


@triton.jit
def _collect(place, kept, plane, row_block: tl.constexpr, block_n: tl.constexpr, splits: tl.constexpr):
    acc = tl.zeros([block_n, row_block], tl.float32)
    for split in range(splits):
        acc += tl.load(place + split * plane, mask=kept, other=0.0, cache_modifier=".cg")
    return acc


@triton.jit
def _finish(
    gate, up, x_scales, w_scales, bias, out, row, column, rows, columns, kept,
    biased: tl.constexpr, kind: tl.constexpr,
):  # fmt: skip
    dtype = out.dtype.element_ty
    by_row = tl.load(x_scales + row, mask=row < rows, other=0.0)[None, :]
    gate = _scaled(gate, by_row, w_scales, bias, column, column < columns, biased)
    if kind != "none":
        up = _scaled(up, by_row, w_scales + columns, bias + columns, column, column < columns, biased)
        activated = activate(gate.to(dtype).to(tl.float32), kind).to(dtype).to(tl.float32)
        gate = activated * up.to(dtype).to(tl.float32)
    tl.store(out + row[None, :] * columns + column[:, None], gate.to(dtype), mask=kept)


@triton.jit
def _scaled(total, by_row, w_scales, bias, column, valid, biased: tl.constexpr):
    total = total * by_row * tl.load(w_scales + column, mask=valid, other=0.0)[:, None]
    if biased:
        total += tl.load(bias + column, mask=valid, other=0.0).to(tl.float32)[:, None]
    return total
