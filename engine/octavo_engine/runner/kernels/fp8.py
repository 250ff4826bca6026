"""Products in FP8 (e4m3): the torch reference.

A matrix is held as FP8 numbers and a float32 scale for each row (Micikevicius et al. 2022, "FP8 formats for
deep learning"): rows are the tokens of an activation and the output columns of a weight, so that a product is
scaled once, after summing up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo_engine.runner.kernels import activation, norm

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
_SMALLEST_PEAK = 1e-12  # rows of zeros get a scale too


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix whose row i stands for ``values[i] * scales[i]``.

    ``values`` [rows, inner] e4m3, or such numbers in a wider dtype; ``scales`` [rows] float32.
    """

    values: Tensor
    scales: Tensor


Activation = Tensor | Quantized


def quantize(x: Tensor, scale: Tensor | None = None) -> Quantized:
    """``x`` [rows, inner] by each row's own largest value, or by one ``scale`` [] for all of it."""
    wide = x.float()
    if scale is None:
        scales = scale_of(wide.abs().amax(dim=-1))
    else:
        scales = scale.float().expand(x.shape[0]).contiguous()
    return Quantized(to_fp8(wide / scales[:, None]), scales)


def scale_of(peak: Tensor) -> Tensor:
    """The scale of numbers up to ``peak``."""
    return peak.clamp(min=_SMALLEST_PEAK) / LARGEST


def to_fp8(x: Tensor) -> Tensor:
    """Rounded to the nearest; what is larger than the largest becomes the largest."""
    return x.clamp(-LARGEST, LARGEST).to(FP8)


def dequantize(x: Quantized, dtype: torch.dtype) -> Tensor:
    return (x.values.float() * x.scales[:, None]).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Quantized:
    return quantize(norm.rms_norm(x, weight, eps))


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Quantized, Tensor]:
    normed, total = norm.add_rms_norm(x, residual, weight, eps)
    return quantize(normed), total


def linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``x`` [rows, inner] times ``weight`` [columns, inner] transposed, plus ``bias``, in ``dtype``.

    e4m3 numbers are exact in bfloat16; unscaled sums may exceed float16.
    """
    inner = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32
    total = F.linear(x.values.to(inner), weight.values.to(inner)).float()
    scaled = total.mul_(x.scales[:, None]).mul_(weight.scales)
    return (scaled if bias is None else scaled.add_(bias)).to(dtype)


def gated(x: Quantized, weight: Quantized, bias: Tensor | None, kind: str, dtype: torch.dtype) -> Tensor:
    """``act(gate) * up`` of two fused projections."""
    return activation.gate(linear(x, weight, bias, dtype), kind)


def gated_quantized(
    x: Quantized, weight: Quantized, bias: Tensor | None, kind: str, dtype: torch.dtype
) -> Quantized:
    return quantize(gated(x, weight, bias, kind, dtype))
