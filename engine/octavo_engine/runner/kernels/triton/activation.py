"""The gated activations: SiLU (Llama) and GELU (Gemma's tanh form, and the exact one)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.launch import follow, release

_BLOCK = 1024  # columns a program


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` for ``gate_up`` [tokens, 2 * intermediate] -> [tokens, intermediate]."""
    return gate(gate_up, "silu")


def gelu_and_mul(gate_up: Tensor, approximate: str = "tanh") -> Tensor:
    """``gelu(gate) * up``; ``approximate`` is torch's name: ``tanh`` or ``none``."""
    return gate(gate_up, "gelu_tanh" if approximate == "tanh" else "gelu")


def gate(gate_up: Tensor, kind: str) -> Tensor:
    """``act(gate) * up`` for the activation named ``silu``, ``gelu_tanh`` or ``gelu``."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(tokens, width, dtype=gate_up.dtype, device=gate_up.device)
    if tokens:
        grid = (tokens, triton.cdiv(width, _BLOCK))
        overlapped = launch.overlaps(gate_up)
        _gated_kernel[grid](
            gate_up,
            out,
            gate_up.stride(0),
            width,
            _BLOCK,
            kind,
            overlapped,
            num_warps=4,
            launch_pdl=overlapped,
        )
    return out


@triton.jit
def _gated_kernel(
    gate_up, out, stride, width, block: tl.constexpr, kind: tl.constexpr, overlapped: tl.constexpr
):
    follow(overlapped)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gate = tl.load(gate_up + row * stride + columns, mask=inside, other=0.0)
    up = tl.load(gate_up + row * stride + width + columns, mask=inside, other=0.0)
    release(overlapped)
    activated = activate(gate.to(tl.float32), kind).to(gate.dtype).to(tl.float32)
    tl.store(out + row * width + columns, (activated * up.to(tl.float32)).to(gate.dtype), mask=inside)


@triton.jit
def activate(x, kind: tl.constexpr):
    """The activation named ``kind`` of a float32 tile."""
    if kind == "silu":
        y = x * tl.sigmoid(x)
    elif kind == "gelu_tanh":
        y = x * tl.sigmoid(2 * 0.7978845608028654 * (x + 0.044715 * x * x * x))
    else:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return y
