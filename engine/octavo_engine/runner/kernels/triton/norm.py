"""RMSNorm (Zhang & Sennrich 2019), alone and fused with the residual sum before it: one program a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.fp8 import Quantized
from octavo_engine.runner.kernels.triton import fp8, launch
from octavo_engine.runner.kernels.triton.fp8 import store_row
from octavo_engine.runner.kernels.triton.launch import follow, release


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` [..., hidden] scaled to unit root mean square in float32, times ``weight`` [hidden].

    Rows may lie apart (``x`` a slice of a wider tensor); the result is contiguous.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    _launch(rows, rows, weight, out, eps, summed=False)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual += x`` in place; returns (norm of the sum, the sum), both [tokens, hidden]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, residual, weight, out, eps, summed=True)
    return out, residual


def rms_norm_fp8(x: Tensor, weight: Tensor, eps: float) -> Quantized:
    """``rms_norm`` of ``x`` [tokens, hidden], quantized token by token."""
    out = fp8.empty(x)
    _launch(x, x, weight, out.values, eps, summed=False, scales=out.scales)
    return out


def add_rms_norm_fp8(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Quantized, Tensor]:
    """``add_rms_norm``, quantized token by token."""
    out = fp8.empty(x)
    _launch(x, residual, weight, out.values, eps, summed=True, scales=out.scales)
    return out, residual


def _launch(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    out: Tensor,
    eps: float,
    *,
    summed: bool,
    scales: Tensor | None = None,
) -> None:
    tokens, hidden = x.shape
    block = triton.next_power_of_2(hidden)
    warps = min(16, max(1, block // 512))
    overlapped = launch.overlaps(x)
    if tokens:
        _norm_kernel[(tokens,)](
            x, residual, weight, out, out if scales is None else scales, x.stride(0), residual.stride(0),
            hidden, eps, block, summed, scales is not None, overlapped,
            num_warps=warps, launch_pdl=overlapped,
        )  # fmt: skip


@triton.jit
def _norm_kernel(
    x, residual, weight, out, scales, x_stride, residual_stride, hidden, eps,
    block: tl.constexpr, summed: tl.constexpr, quantized: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < hidden
    scale = tl.load(weight + columns, mask=inside, other=0.0)
    follow(overlapped)
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    dtype = value.dtype
    if summed:
        place = residual + row * residual_stride + columns
        value = (value.to(tl.float32) + tl.load(place, mask=inside, other=0.0).to(tl.float32)).to(dtype)
        tl.store(place, value, mask=inside)
    wide = value.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, axis=0) / hidden + eps)
    normed = ((wide * inverse).to(dtype).to(tl.float32) * scale.to(tl.float32)).to(dtype)
    release(overlapped)
    if quantized:
        store_row(out, scales, row, columns, inside, hidden, normed.to(tl.float32))
    else:
        tl.store(out + row * hidden + columns, normed, mask=inside)
