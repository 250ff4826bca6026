"""The operators that a model's layers call, chosen once by device: torch's own on the CPU, kernels on a GPU.

Both tables have the same signatures. Kernels are imported only where they run, as importing Triton takes
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.runner.architecture import Windows
from octavo_engine.runner.kernels import activation, attention, cache, fp8, norm, rope
from octavo_engine.runner.kernels.fp8 import Quantized

_LARGEST_HEAD, _MOST_SHARING = 256, 64

Plans = dict[int | None, Any]  # by the sliding window of a layer


class RopeAndCache(Protocol):
    """What stands between the QKV product and attention; see the kernel of the same name."""

    def __call__(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slot_mapping: Tensor,
        *,
        q_weight: Tensor | None = None,
        k_weight: Tensor | None = None,
        eps: float = 1e-6,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> Tensor: ...


class PagedAttention(Protocol):
    """See the reference of the same name."""

    def __call__(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: Any, scale: float, v_scale: float = 1.0
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The attention heads of one rank."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Fp8Operators:
    """What layers call where products are computed in FP8; signatures as in the reference of that name.

    ``held``: the dtype of weights in memory; None: the model's, in which e4m3 numbers are exact.
    """

    held: torch.dtype | None
    quantize: Callable[[Tensor, Tensor | None], Quantized]
    rms_norm: Callable[[Tensor, Tensor, float], Quantized]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Quantized, Tensor]]
    linear: Callable[[Quantized, Quantized, Tensor | None, torch.dtype], Tensor]
    gated: Callable[[Quantized, Quantized, Tensor | None, str, torch.dtype], Tensor]
    gated_quantized: Callable[[Quantized, Quantized, Tensor | None, str, torch.dtype], Quantized]


@dataclass(frozen=True, slots=True)
class Operators:
    """``plan_attention`` (layout, windows) gives what ``paged_attention`` wants for layers of each window;
    made once a step. ``gated`` (x, weight, bias, activation) is ``act(gate) * up`` of two fused projections.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    gated: Callable[[Tensor, Tensor, Tensor | None, str], Tensor]
    rope_and_cache: RopeAndCache
    plan_attention: Callable[[attention.SequenceLayout, Windows], Plans]
    paged_attention: PagedAttention
    copy_blocks: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    fp8: Fp8Operators


def operators(device: torch.device, shape: HeadShape) -> Operators:
    """One table for each device and stream: the kernels of a table share scratch memory."""
    if device.type != "cuda":
        return torch_operators(device)
    _check_heads(shape)
    from octavo_engine.runner.kernels.triton.table import triton_operators

    return triton_operators(device, shape)


def _check_heads(shape: HeadShape) -> None:
    """Raises ModelError for what the attention kernels are not made for."""
    dim, share = shape.head_dim, shape.heads // shape.kv_heads
    if dim % 16 or dim > _LARGEST_HEAD:
        raise ModelError(
            f"The model's attention heads have {dim} values; on a GPU they must be a multiple of 16, at most "
            f"{_LARGEST_HEAD}. Use --device cpu."
        )
    if share > _MOST_SHARING:
        raise ModelError(
            f"{share} of the model's query heads share a KV head; on a GPU at most {_MOST_SHARING} can. "
            "Use --device cpu."
        )


def torch_operators(device: torch.device) -> Operators:
    """The reference."""
    return Operators(
        norm.rms_norm,
        norm.add_rms_norm,
        F.linear,
        _gated,
        _rope_and_cache,
        lambda layout, windows: {w: attention.plan_attention(layout, w, device) for w in windows},
        attention.paged_attention,
        cache.copy_blocks,
        Fp8Operators(
            None, fp8.quantize, fp8.rms_norm, fp8.add_rms_norm, fp8.linear, fp8.gated, fp8.gated_quantized
        ),
    )


def _gated(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    return activation.gate(F.linear(x, weight, bias), kind)


def _rope_and_cache(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    *,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> Tensor:
    kv_heads = k_cache.shape[2]
    heads = qkv.shape[1] - 2 * kv_heads
    turned, values = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
    if q_weight is not None and k_weight is not None:
        q, k = torch.split(turned, [heads, kv_heads], dim=1)
        turned = torch.cat([norm.rms_norm(q, q_weight, eps), norm.rms_norm(k, k_weight, eps)], dim=1)
    rotated = rope.apply_rope(turned, cos, sin)
    cache.write_kv(rotated[:, heads:], values, k_cache, v_cache, slot_mapping, k_scale, v_scale)
    return rotated[:, :heads]
