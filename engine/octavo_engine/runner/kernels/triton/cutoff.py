"""The smallest logit that min_p, top_k and top_p keep, found without sorting.

Several programs a row take the maxima of small groups of tokens. Of these alone follows a threshold below
which no kept token can lie: the k best maxima are k tokens. The few tokens above it are candidates, and one
program finds the cutoff among them, bit by bit. Where they are many (a flat distribution under top_p) the
whole row is searched instead: each pass counts or weighs what lies above three pivots and moves an interval's
ends onto logits that exist.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_GROUP = tl.constexpr(64)  # tokens of which the maximum is taken
_PART = 4096  # tokens of a program
_MOST = 1024  # candidates
_TILE = 2048  # tokens that are looked at at once for candidates


def cutoffs(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """[rows] float32: tokens whose logit is at least this are kept; -inf where a row filters nothing.

    ``logits`` [rows, vocab]; the others [rows], as in ``SamplingColumns``. The filters act in the order
    min_p, top_k, top_p, each on what the ones before it keep; ties with the last kept token are kept.
    """
    rows, vocab = logits.shape
    part = min(_PART, max(_GROUP.value, triton.next_power_of_2(vocab)))
    parts = triton.cdiv(vocab, part)
    groups = parts * part // _GROUP.value
    maxima, sums = _reals(logits, rows, groups), _reals(logits, rows, 2, parts)
    bounds, counts = _reals(logits, rows, 3), _integers(logits, rows, 2)
    chosen, candidates = _integers(logits, rows, groups), _reals(logits, rows, _MOST)
    out = _reals(logits, rows)
    _maxima_kernel[(rows, parts)](
        logits, temperature, maxima, sums, logits.stride(0), vocab, groups, part, num_warps=4
    )
    _threshold_kernel[(rows,)](
        maxima, sums, temperature, top_k, top_p, min_p, bounds, chosen, counts, vocab, groups, parts,
        triton.next_power_of_2(groups), triton.next_power_of_2(parts), num_warps=4,
    )  # fmt: skip
    _gather_kernel[(rows,)](
        logits, bounds, chosen, counts, candidates, logits.stride(0), vocab, groups,
        _MOST, min(_TILE, groups * _GROUP.value), num_warps=8,
    )  # fmt: skip
    _select_kernel[(rows,)](
        candidates, bounds, counts, temperature, top_k, top_p, min_p, out, vocab, _MOST, num_warps=4
    )
    _search_kernel[(rows,)](
        logits, temperature, top_k, top_p, min_p, counts, out, logits.stride(0), vocab, _MOST,
        min(_BLOCK, triton.next_power_of_2(vocab)), num_warps=16,
    )  # fmt: skip
    return out


def _reals(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _integers(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int32, device=like.device)


@triton.jit
def _maxima_kernel(logits, temperatures, maxima, sums, stride, vocab, groups, part: tl.constexpr):
    """The maximum of each group of tokens, and of the part its maximum and sum of exponentials."""
    row, place, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    lanes: tl.constexpr = part // _GROUP
    group = tl.arange(0, lanes)
    token = place * part + group[:, None] * _GROUP + tl.arange(0, _GROUP)[None, :]
    x = tl.load(logits + row * stride + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    best = tl.max(x, axis=1)
    peak = tl.max(best, axis=0)
    temperature = tl.load(temperatures + row)
    coolness = 1.0 / tl.where(temperature > 0, temperature, 1.0)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.sum(tl.sum(tl.exp((x - base) * coolness), axis=1), axis=0)
    tl.store(maxima + row * groups + place * lanes + group, best)
    tl.store(sums + row * 2 * parts + place, peak)
    tl.store(sums + row * 2 * parts + parts + place, total)


@triton.jit
def _threshold_kernel(
    maxima, sums, temperatures, top_ks, top_ps, min_ps, bounds, chosen, counts, vocab, groups, parts,
    block: tl.constexpr, parts_block: tl.constexpr,
):  # fmt: skip
    """A logit below which nothing is kept, and the groups that reach it; bounds: peak, mass, threshold."""
    row = tl.program_id(0).to(tl.int64)
    temperature, top_k = tl.load(temperatures + row), tl.load(top_ks + row)
    top_p, min_p = tl.load(top_ps + row), tl.load(min_ps + row)
    limited = (top_k > 0) & (top_k < vocab)
    group = tl.arange(0, block)
    best = tl.load(maxima + row * groups + group, mask=group < groups, other=float("-inf"))
    peak = tl.max(best, axis=0)
    place = tl.arange(0, parts_block)
    part_peak = tl.load(sums + row * 2 * parts + place, mask=place < parts, other=float("-inf"))
    part_sum = tl.load(sums + row * 2 * parts + parts + place, mask=place < parts, other=0.0)
    coolness = 1.0 / tl.where(temperature > 0, temperature, 1.0)
    total = tl.sum(part_sum * tl.exp((part_peak - peak) * coolness), axis=0)
    threshold = peak + temperature * tl.log(min_p) if min_p > 0 else float("-inf")
    if limited:
        real = tl.where(best > float("-inf"), 1.0, 0.0)
        threshold = tl.maximum(threshold, _highest(best, real, top_k.to(tl.float32)))
    elif (top_p < 1) & (min_p <= 0):
        threshold = _highest(best, tl.exp((best - peak) * coolness), top_p * total)
    sought = (temperature > 0) & (limited | (top_p < 1))
    wanted = (best >= tl.where(sought, threshold, float("inf"))) & (best > float("-inf"))
    rank = tl.cumsum(wanted.to(tl.int32), axis=0) - 1
    tl.store(chosen + row * groups + rank, group, mask=wanted)
    tl.store(counts + 2 * row, tl.sum(wanted.to(tl.int32), axis=0))
    tl.store(bounds + 3 * row, peak)
    tl.store(bounds + 3 * row + 1, total)
    tl.store(bounds + 3 * row + 2, threshold)


@triton.jit
def _gather_kernel(
    logits, bounds, chosen, counts, candidates, stride, vocab, groups, most: tl.constexpr, tile: tl.constexpr
):
    """The tokens at or above the threshold, as many as there is room for; counts all or more than that."""
    row = tl.program_id(0).to(tl.int64)
    found = tl.load(counts + 2 * row)
    threshold = tl.load(bounds + 3 * row + 2)
    count = tl.where(found > most, most + 1, 0)
    for start in range(0, tl.where(found > most, 0, found * _GROUP), tile):
        lane = start + tl.arange(0, tile)
        inside = lane < found * _GROUP
        group = tl.load(chosen + row * groups + lane // _GROUP, mask=inside, other=0)
        token = group * _GROUP + lane % _GROUP
        x = tl.load(logits + row * stride + token, mask=inside & (token < vocab), other=float("-inf"))
        x = x.to(tl.float32)
        wanted = (x >= threshold) & (x > float("-inf"))
        place = count + tl.cumsum(wanted.to(tl.int32), axis=0) - 1
        tl.store(candidates + row * most + place, x, mask=wanted & (place < most))
        count += tl.sum(wanted.to(tl.int32), axis=0)
    tl.store(counts + 2 * row + 1, count)


@triton.jit
def _select_kernel(
    candidates, bounds, counts, temperatures, top_ks, top_ps, min_ps, out, vocab, most: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    temperature, top_k = tl.load(temperatures + row), tl.load(top_ks + row)
    top_p, min_p = tl.load(top_ps + row), tl.load(min_ps + row)
    peak, total = tl.load(bounds + 3 * row), tl.load(bounds + 3 * row + 1)
    limited = (top_k > 0) & (top_k < vocab)
    low = float("-inf")
    coolness = 1.0 / tl.where(temperature > 0, temperature, 1.0)
    cut = peak + temperature * tl.log(min_p) if (min_p > 0) & (temperature > 0) else low
    lane = tl.arange(0, most)
    x = tl.load(candidates + row * most + lane, mask=lane < tl.load(counts + 2 * row + 1), other=low)
    if limited & (temperature > 0):
        cut = tl.maximum(cut, _highest(x, tl.where(x > low, 1.0, 0.0), top_k.to(tl.float32)))
    if (top_p < 1) & (temperature > 0):
        weight = tl.where(x >= cut, tl.exp((x - peak) * coolness), 0.0)
        whole = tl.sum(weight, axis=0) if limited | (min_p > 0) else total
        lowest = tl.min(tl.where(x > low, x, float("inf")), axis=0)
        found = _highest(x, weight, top_p * whole)
        cut = tl.where(found > low, found, tl.maximum(cut, lowest))  # rounding may leave the goal unreached
    tl.store(out + row, cut)


@triton.jit
def _highest(x, weight, goal):
    """The highest of ``x`` such that those at or above it weigh ``goal`` together; -inf when all do not."""
    bits = x.to(tl.uint32, bitcast=True)
    key = tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)  # ordered as the numbers are
    found = tl.zeros([1], tl.uint32)
    highest_bit = tl.full([1], 0x80000000, tl.uint32)
    for place in range(32):
        trial = found | (highest_bit >> place)
        above = tl.sum(tl.where(key >= trial, weight, 0.0), axis=0)
        found = tl.where(above >= goal, trial, found)
    bits = tl.where(found >= 0x80000000, found ^ 0x80000000, found ^ 0xFFFFFFFF)
    number = tl.where(found > 0, bits.to(tl.float32, bitcast=True), float("-inf"))
    return tl.max(number, axis=0)


@triton.jit
def _search_kernel(
    logits, temperatures, top_ks, top_ps, min_ps, counts, out, stride,
    vocab: tl.constexpr, most: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Rows with too many candidates: the whole row is looked through, again and again."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(counts + 2 * row + 1) > most:
        temperature, top_k = tl.load(temperatures + row), tl.load(top_ks + row)
        top_p, min_p = tl.load(top_ps + row), tl.load(min_ps + row)
        line = logits + row * stride
        low, high = _bounds(line, vocab, block)
        if min_p > 0:
            low = tl.maximum(low, high + temperature * tl.log(min_p))
        if (top_k > 0) & (top_k < vocab):
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
