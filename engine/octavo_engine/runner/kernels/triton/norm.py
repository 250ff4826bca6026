"""RMSNorm (Zhang & Sennrich 2019), alone and fused with the residual sum before it: one program a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton import launch
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


def _launch(x: Tensor, residual: Tensor, weight: Tensor, out: Tensor, eps: float, *, summed: bool) -> None:
    tokens, hidden = x.shape
    block = triton.next_power_of_2(hidden)
    warps = min(16, max(1, block // 512))
    overlapped = launch.overlaps(x)
    if tokens:
        _norm_kernel[(tokens,)](
            x,
            residual,
            weight,
            out,
            x.stride(0),
            residual.stride(0),
            hidden,
            eps,
            block,
            summed,
            overlapped,
            num_warps=warps,
            launch_pdl=overlapped,
        )


@triton.jit
def _norm_kernel(
    x,
    residual,
    weight,
    out,
    x_stride,
    residual_stride,
    hidden,
    eps,
    block: tl.constexpr,
    summed: tl.constexpr,
    overlapped: tl.constexpr,
):
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
    normed = (wide * inverse).to(dtype).to(tl.float32) * scale.to(tl.float32)
    release(overlapped)
    tl.store(out + row * hidden + columns, normed.to(dtype), mask=inside)
