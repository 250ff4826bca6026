"""Products of a few rows (1 to 128) with a weight matrix: all time goes into reading the weight once.

Programs share out the output columns and, where these are too few to keep the device reading, the inner
dimension too (split-K). The splits of a tile meet in the same launch: the last to finish, told by a counter,
sums up in the order of the splits, so results do not depend on timing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.activation import activate, gate
from octavo_engine.runner.kernels.triton.launch import follow, release

MOST_ROWS = 128
_WIDEST_SPLIT = 4096  # columns of a product that is split
_MOST_SPLITS = 4


@dataclass(frozen=True, slots=True)
class GemvConfig:
    """How one product is shared out."""

    columns: int  # output columns a program
    inner: int  # elements of the inner dimension an iteration
    splits: int = 1
    warps: int = 4
    stages: int = 4
    dot: bool = True  # tensor cores; without, one row by multiply and add


@dataclass(frozen=True, slots=True)
class GemvScratch:
    """Partial sums of the splits and their counters, which every launch leaves at zero.

    Launches that share one scratch must not overlap.
    """

    partials: Tensor  # [elements] float32
    counters: Tensor  # [tiles] int32

    @classmethod
    def allocate(
        cls, widest: int, most_splits: int, device: torch.device, rows: int = MOST_ROWS
    ) -> GemvScratch:
        """For outputs of up to ``widest`` columns, in up to ``most_splits`` splits."""
        elements = rows * widest * most_splits
        return cls(
            torch.empty(elements, dtype=torch.float32, device=device),
            torch.zeros(widest, dtype=torch.int32, device=device),
        )


def gemv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: GemvConfig,
    scratch: GemvScratch,
    kind: str = "none",
) -> Tensor:
    """``x`` [rows <= 128, inner] times ``weight`` [columns, inner] transposed, plus ``bias`` -> [rows,
    columns].

    With ``kind`` an activation (``silu``, ``gelu_tanh``, ``gelu``), ``weight`` holds gate and up projections
    one after the other, and the result is ``act(gate) * up`` [rows, columns / 2]. Sums in float32.
    """
    rows, inner = x.shape
    gated = kind != "none"
    columns = weight.shape[0] // 2 if gated else weight.shape[0]
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(columns, config.columns), config.splits)
    overlapped = launch.overlaps(x)
    _gemv_kernel[grid](
        x, weight, weight if bias is None else bias, out, scratch.partials, scratch.counters,
        rows, columns, inner, x.stride(0), weight.stride(0),
        _row_block(rows, config), config.columns, config.inner, config.splits,
        bias is not None, kind, overlapped,
        num_warps=config.warps, num_stages=config.stages, launch_pdl=overlapped,
    )  # fmt: skip
    return out


def _row_block(rows: int, config: GemvConfig) -> int:
    """Rows that a program computes: a power of two that a matrix product takes, or one without."""
    return max(16, triton.next_power_of_2(rows)) if config.dot or rows > 1 else 1


class SmallProducts:
    """Linear layers by the way that is fastest here: own kernels for few rows, else torch's (cuBLAS).

    One for each stream: launches share a scratch.
    """

    def __init__(self, device: torch.device) -> None:
        self._scratch = GemvScratch.allocate(_WIDEST_SPLIT, _MOST_SPLITS, device)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x`` [rows, inner] times ``weight`` [columns, inner] transposed, plus ``bias`` [columns]."""
        config = _config_of(x, weight)
        if config is None:
            return F.linear(x, weight, bias)
        return gemv(x, weight, bias, config, self._scratch)

    def gated(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: str = "silu") -> Tensor:
        """``act(gate) * up`` by ``weight`` [2 * columns, inner]; ``kind`` as in :func:`gemv`."""
        config = _config_of(x, weight)
        if config is None:
            return gate(F.linear(x, weight, bias), kind)
        return gemv(x, weight, bias, config, self._scratch, kind)


def _config_of(x: Tensor, weight: Tensor) -> GemvConfig | None:
    """None in float32 too: its tiles would not fit into shared memory."""
    return choose_config(x.shape[0], *weight.shape) if x.dtype.itemsize == 2 else None


def choose_config(rows: int, columns: int, inner: int) -> GemvConfig | None:
    """The best of the measured ways (docs/performance.md), or None where torch's product is faster."""
    if not 0 < rows <= MOST_ROWS:
        return None
    if rows > 64:
        return _hundred_rows(columns, inner)
    if rows > 16:
        return _dozens_of_rows(columns)
    return (_one_row if rows == 1 else _some_rows)(columns)


def _one_row(columns: int) -> GemvConfig:
    """Multiply and add; fewer columns a program where there are few, so that all multiprocessors read."""
    if columns > 8192:
        return GemvConfig(16, 256, warps=4, dot=False)
    if columns > 2048:
        return GemvConfig(16, 512, warps=8, dot=False)
    return GemvConfig(8, 1024, warps=8, dot=False)


def _some_rows(columns: int) -> GemvConfig:
    if columns > 8192:
        return GemvConfig(64, 128, stages=3)
    if columns > 4096:
        return GemvConfig(64, 128, stages=5)
    if columns > 2048:
        return GemvConfig(32, 128, splits=2, stages=5)
    return GemvConfig(64, 256, splits=4, stages=5)


def _dozens_of_rows(columns: int) -> GemvConfig:
    if columns > 8192:
        return GemvConfig(128, 128, warps=8)
    if columns > 4096:
        return GemvConfig(32, 128)
    if columns > 2048:
        return GemvConfig(32, 128, stages=6)
    return GemvConfig(32, 128, splits=4, stages=5)


def _hundred_rows(columns: int, inner: int) -> GemvConfig | None:
    """Only where the weight is large enough for its reading to count, or torch splits it badly."""
    if columns > 8192:
        return GemvConfig(128, 128, warps=8, stages=3)
    return GemvConfig(64, 128, splits=2, warps=8) if 2048 < columns <= 4096 and inner > 2 * columns else None


@triton.jit(do_not_specialize=["rows"])
def _gemv_kernel(
    x, weight, bias, out, partials, counters, rows, columns, inner, x_stride, w_stride,
    row_block: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, splits: tl.constexpr,
    biased: tl.constexpr, kind: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    row, column = tl.arange(0, row_block), tile * block_n + tl.arange(0, block_n)
    share = tl.cdiv(tl.cdiv(inner, block_k), splits) * block_k
    begin, end = split * share, tl.minimum(inner, (split + 1) * share)
    follow(overlapped)
    gate = _product(
        x, weight, row, column, rows, columns, begin, end, x_stride, w_stride, row_block, block_n, block_k
    )
    kept = (row < rows)[:, None] & (column < columns)[None, :]
    up = gate
    if kind != "none":
        up = _product(
            x, weight + columns.to(tl.int64) * w_stride, row, column, rows, columns, begin, end,
            x_stride, w_stride, row_block, block_n, block_k,
        )  # fmt: skip
    release(overlapped)
    if splits == 1:
        _finish(gate, up, bias, out, row, column, columns, kept, biased, kind)
    else:
        plane = rows * columns
        place = row[:, None] * columns + column[None, :]
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
            _finish(gate, up, bias, out, row, column, columns, kept, biased, kind)


@triton.jit
def _product(
    x, weight, row, column, rows, columns, begin, end, x_stride, w_stride,
    row_block: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """[row_block, block_n] float32 of the inner range [begin, end); one row by multiply and add."""
    k = tl.arange(0, block_k)
    w_rows = weight + column.to(tl.int64)[:, None] * w_stride
    if row_block == 1:
        wide = tl.zeros([block_n, block_k], tl.float32)
        for start in range(begin, end, block_k):
            inside = start + k < end
            a = tl.load(x + start + k, mask=inside, other=0.0)
            b = tl.load(
                w_rows + (start + k)[None, :], mask=(column < columns)[:, None] & inside[None, :], other=0.0
            )
            wide += b.to(tl.float32) * a.to(tl.float32)[None, :]
        acc = tl.sum(wide, axis=1)[None, :]
    else:
        acc = tl.zeros([row_block, block_n], tl.float32)
        for start in range(begin, end, block_k):
            inside = start + k < end
            a = tl.load(
                x + row[:, None] * x_stride + (start + k)[None, :],
                mask=(row < rows)[:, None] & inside[None, :], other=0.0,
            )  # fmt: skip
            b = tl.load(
                w_rows + (start + k)[None, :], mask=(column < columns)[:, None] & inside[None, :], other=0.0
            )
            acc = tl.dot(a, tl.trans(b).to(a.dtype), acc, input_precision="ieee")
    return acc


@triton.jit
def _collect(place, kept, plane, row_block: tl.constexpr, block_n: tl.constexpr, splits: tl.constexpr):
    acc = tl.zeros([row_block, block_n], tl.float32)
    for split in range(splits):
        acc += tl.load(place + split * plane, mask=kept, other=0.0, cache_modifier=".cg")
    return acc


@triton.jit
def _finish(gate, up, bias, out, row, column, columns, kept, biased: tl.constexpr, kind: tl.constexpr):
    dtype = out.dtype.element_ty
    if biased:
        gate += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
        if kind != "none":
            up += tl.load(bias + columns + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if kind != "none":
        gate = activate(gate.to(dtype).to(tl.float32), kind).to(dtype).to(tl.float32) * up.to(dtype).to(
            tl.float32
        )
    tl.store(out + row[:, None] * columns + column[None, :], gate.to(dtype), mask=kept)
