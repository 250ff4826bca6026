"""Activations to FP8 (e4m3) with a scale for each token: one program a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.fp8 import FP8, Quantized
from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.activation import activate
from octavo_engine.runner.kernels.triton.launch import follow, release

_LARGEST = tl.constexpr(448.0)
_SMALLEST_PEAK = tl.constexpr(1e-12)


def empty(x: Tensor) -> Quantized:
    """Room for ``x`` [tokens, width] quantized."""
    return room(x.shape[0], x.shape[1], x.device)


def room(tokens: int, width: int, device: torch.device) -> Quantized:
    values = torch.empty(tokens, width, dtype=FP8, device=device)
    return Quantized(values, torch.empty(tokens, dtype=torch.float32, device=device))


def quantize(x: Tensor, scale: Tensor | None = None) -> Quantized:
    """``x`` [tokens, width] by each token's own largest value, or by one ``scale`` [] for all of it."""
    out = empty(x)
    _launch(x, out, scale, "none")
    return out


def gate(gate_up: Tensor, kind: str) -> Quantized:
    """``act(gate) * up`` of ``gate_up`` [tokens, 2 * width], quantized; ``kind`` as of the plain one."""
    out = room(gate_up.shape[0], gate_up.shape[1] // 2, gate_up.device)
    _launch(gate_up, out, None, kind)
    return out


def _launch(x: Tensor, out: Quantized, scale: Tensor | None, kind: str) -> None:
    tokens, width = out.values.shape
    block = triton.next_power_of_2(width)
    overlapped = launch.overlaps(x)
    if tokens:
        _quantize_kernel[(tokens,)](
            x, out.values, out.scales, out.scales if scale is None else scale, x.stride(0), width,
            block, kind, scale is not None, overlapped,
            num_warps=min(16, max(1, block // 512)), launch_pdl=overlapped,
        )  # fmt: skip


@triton.jit
def _quantize_kernel(
    x, out, scales, given, stride, width,
    block: tl.constexpr, kind: tl.constexpr, static: tl.constexpr, overlapped: tl.constexpr,
):  # fmt: skip
    follow(overlapped)
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    inside = columns < width
    value = tl.load(x + row * stride + columns, mask=inside, other=0.0)
    if kind != "none":
        up = tl.load(x + row * stride + width + columns, mask=inside, other=0.0)
        activated = activate(value.to(tl.float32), kind).to(value.dtype).to(tl.float32)
        value = (activated * up.to(tl.float32)).to(value.dtype)
    release(overlapped)
    if static:
        scale = tl.load(given)
        tl.store(scales + row, scale)
        rounded = saturated(value.to(tl.float32) / scale).to(out.dtype.element_ty)
        tl.store(out + row * width + columns, rounded, mask=inside)
    else:
        store_row(out, scales, row, columns, inside, width, value.to(tl.float32))


@triton.jit
def store_row(out, scales, row, columns, inside, width, value):
    """Store the float32 numbers of a token, which are 0 where not ``inside``, and their scale."""
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), _SMALLEST_PEAK) / _LARGEST
    tl.store(scales + row, scale)
    tl.store(out + row * width + columns, saturated(value / scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def saturated(x):
    """What is larger than the largest number of e4m3 becomes that; a NaN stays one."""
    x = tl.where(x > _LARGEST, _LARGEST, x)
    return tl.where(x < -_LARGEST, -_LARGEST, x)
