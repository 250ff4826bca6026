"""The smallest logit that min_p, top_k and top_p keep, found by narrowing an interval instead of sorting.

Each pass over a row counts (or weighs) what lies above three pivots and moves the interval's ends onto logits
that exist, so it ends exactly at the cutoff after a number of passes that grows with the logarithm of the
density.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def cutoffs(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """[rows] float32: tokens whose logit is at least this are kept; -inf where a row filters nothing.

    ``logits`` [rows, vocab]; the others [rows], as in ``SamplingColumns``. The filters act in the order
    min_p, top_k, top_p, each on what the ones before it keep; ties with the last kept token are kept.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _cutoff_kernel[(rows,)](
        logits, temperature, top_k, top_p, min_p, out, logits.stride(0), vocab,
        min(_BLOCK, triton.next_power_of_2(vocab)), num_warps=16,
    )  # fmt: skip
    return out


@triton.jit
def _cutoff_kernel(
    logits, temperatures, top_ks, top_ps, min_ps, out, stride, vocab: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    temperature, top_k = tl.load(temperatures + row), tl.load(top_ks + row)
    top_p, min_p = tl.load(top_ps + row), tl.load(min_ps + row)
    limited = (top_k > 0) & (top_k < vocab)
    if (temperature <= 0) | ((limited == 0) & (top_p >= 1) & (min_p <= 0)):
        tl.store(out + row, float("-inf"))
    else:
        line = logits + row * stride
        low, high = _bounds(line, vocab, block)
        if min_p > 0:
            low = tl.maximum(low, high + temperature * tl.log(min_p))
        if limited:
            low = _search(line, vocab, low, high, top_k.to(tl.float32), high, temperature, block, False)
        if top_p < 1:
            goal = top_p * _mass(line, vocab, low, high, temperature, block)
            low = _search(line, vocab, low, high, goal, high, temperature, block, True)
        tl.store(out + row, low)


@triton.jit
def _bounds(line, vocab: tl.constexpr, block: tl.constexpr):
    """The lowest finite logit and the highest."""
    high = tl.full([block], float("-inf"), tl.float32)
    low = tl.full([block], float("inf"), tl.float32)
    for start in range(0, vocab, block):
        x = _tile(line, start, vocab, block)
        high = tl.maximum(high, x)
        low = tl.minimum(low, tl.where(x == float("-inf"), float("inf"), x))
    return tl.min(low, axis=0), tl.max(high, axis=0)


@triton.jit
def _mass(line, vocab: tl.constexpr, low, peak, temperature, block: tl.constexpr):
    total = tl.zeros([block], tl.float32)
    for start in range(0, vocab, block):
        x = _tile(line, start, vocab, block)
        total += tl.where(x >= low, tl.exp((x - peak) / temperature), 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _search(
    line, vocab: tl.constexpr, low, high, goal, peak, temperature, block: tl.constexpr, weighed: tl.constexpr
):
    """The highest logit in [low, high] that ``goal`` (a number or weight) of them reach; else ``low``."""
    while low < high:
        step = (high - low) * 0.25
        p1, p2, p3 = low + step, low + 2 * step, low + 3 * step
        if p1 <= low:
            p1, p2, p3 = high, high, high
        f1, f2, f3, up1, up2, up3, down1, down2, down3 = _measure(
            line, vocab, p1, p2, p3, peak, temperature, block, weighed
        )
        if f3 >= goal:
            low = up3
        elif f2 >= goal:
            low, high = up2, down3
        elif f1 >= goal:
            low, high = up1, down2
        else:
            high = down1
    return low


@triton.jit
def _measure(
    line, vocab: tl.constexpr, p1, p2, p3, peak, temperature, block: tl.constexpr, weighed: tl.constexpr
):
    """Of each pivot: what lies at or above it, the lowest logit there, and the highest logit below."""
    f1, f2, f3 = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    infinite = float("inf")
    up1, up2, up3 = tl.full([block], infinite, tl.float32), f2 + infinite, f3 + infinite
    down1, down2, down3 = f1 - infinite, f2 - infinite, f3 - infinite
    for start in range(0, vocab, block):
        x = _tile(line, start, vocab, block)
        weight = tl.exp((x - peak) / temperature) if weighed else 1.0
        above = x >= p1
        f1 += tl.where(above, weight, 0.0)
        up1, down1 = (
            tl.minimum(up1, tl.where(above, x, infinite)),
            tl.maximum(down1, tl.where(above, -infinite, x)),
        )
        above = x >= p2
        f2 += tl.where(above, weight, 0.0)
        up2, down2 = (
            tl.minimum(up2, tl.where(above, x, infinite)),
            tl.maximum(down2, tl.where(above, -infinite, x)),
        )
        above = x >= p3
        f3 += tl.where(above, weight, 0.0)
        up3, down3 = (
            tl.minimum(up3, tl.where(above, x, infinite)),
            tl.maximum(down3, tl.where(above, -infinite, x)),
        )
    return (
        tl.sum(f1, axis=0), tl.sum(f2, axis=0), tl.sum(f3, axis=0),
        tl.min(up1, axis=0), tl.min(up2, axis=0), tl.min(up3, axis=0),
        tl.max(down1, axis=0), tl.max(down2, axis=0), tl.max(down3, axis=0),
    )  # fmt: skip


@triton.jit
def _tile(line, start, vocab: tl.constexpr, block: tl.constexpr):
    token = start + tl.arange(0, block)
    return tl.load(line + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
