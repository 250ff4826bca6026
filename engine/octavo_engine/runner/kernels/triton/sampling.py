"""Drawing tokens on the device: no sort, no softmax, no word to the host.

A token is drawn as the highest of ``logit / temperature + Gumbel noise`` (Gumbel-max), over the logits that
the filters keep. The noise comes from a counter-based generator (Philox, Salmon et al. 2011) keyed by the
row's seed and counter, so what a sequence draws depends on these alone and never on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.runner.kernels.triton.cutoff import cutoffs

_ROUNDS = tl.constexpr(7)  # of Philox; the fewest that pass the usual tests of randomness
_QUARTER = 1024  # tokens that share a call of the generator lie this far apart


@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """Sampling parameters of the rows, all [rows] on the device.

    ``temperature`` float32, 0 is greedy. ``top_k`` int32, 0 or the vocabulary's size is off; ``top_p``
    float32, 1 is off; ``min_p`` float32, 0 is off. ``seeds`` int64 (any bits) and ``counters`` int64 (the
    output position).
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    counters: Tensor


def sample(
    logits: Tensor,
    columns: SamplingColumns,
    *,
    filtered: bool,
    raw: Tensor | None = None,
    logprobs: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """One token for each row of ``logits`` [rows, vocab] (float32 or the model's dtype; rows may lie apart).

    Returns (token ids [rows] int64, log probabilities [rows] float32, or None without ``logprobs``). The
    latter are of ``raw`` (default: of ``logits``), before temperature and filters. ``filtered`` says whether
    any row has top_k, top_p or min_p. A row that holds NaN or +inf gets token -1.
    """
    rows, vocab = logits.shape
    raw = logits if raw is None else raw
    device = logits.device
    tokens = torch.empty(rows, dtype=torch.int64, device=device)
    found = torch.empty(rows, dtype=torch.float32, device=device) if logprobs else None
    if not rows:
        return tokens, found
    cutoff = columns.temperature
    if filtered:
        cutoff = cutoffs(logits, columns.temperature, columns.top_k, columns.top_p, columns.min_p)
    parts = triton.cdiv(vocab, 4 * _QUARTER)
    partials = torch.empty(rows, 4, parts, dtype=torch.float32, device=device)
    _race_kernel[(rows, parts)](
        logits, raw, cutoff, columns.temperature, columns.seeds, columns.counters, partials,
        logits.stride(0), raw.stride(0), vocab, _QUARTER, filtered, logprobs, num_warps=8,
    )  # fmt: skip
    _winner_kernel[(rows,)](
        raw,
        partials,
        tokens,
        tokens if found is None else found,
        raw.stride(0),
        parts,
        triton.next_power_of_2(parts),
        logprobs,
        num_warps=1,
    )
    return tokens, found


@triton.jit
def _race_kernel(
    logits, raw, cutoffs, temperatures, seeds, counters, partials, stride, raw_stride, vocab,
    quarter: tl.constexpr, filtered: tl.constexpr, weighed: tl.constexpr,
):  # fmt: skip
    """The best score and its token of 4 * quarter tokens, and of ``raw`` the maximum and the sum of
    exponentials.

    Not ``weighed``, the sum is 0; it is NaN in either case when there is NaN or +inf among the logits.
    """
    row, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    temperature = tl.load(temperatures + row)
    cutoff = tl.load(cutoffs + row) if filtered else float("-inf")
    lane = tl.arange(0, quarter)
    token = part * 4 * quarter + lane
    zero = lane * 0
    counter = zero + tl.load(counters + row).to(tl.int32)
    r0, r1, r2, r3 = tl.philox(tl.load(seeds + row), part * quarter + lane, counter, zero, zero, _ROUNDS)
    coolness = 1.0 / tl.where(temperature > 0, temperature, 1.0)
    line = logits + row * stride
    s0 = _score(line, token, vocab, r0, coolness, temperature, cutoff)
    s1 = _score(line, token + quarter, vocab, r1, coolness, temperature, cutoff)
    s2 = _score(line, token + 2 * quarter, vocab, r2, coolness, temperature, cutoff)
    s3 = _score(line, token + 3 * quarter, vocab, r3, coolness, temperature, cutoff)
    low, high = tl.maximum(s0, s1), tl.maximum(s2, s3)
    best = tl.maximum(low, high)
    near = tl.where(s0 == best, token, tl.where(s1 == best, token + quarter, token + 2 * quarter))
    found = tl.where((s2 == best) | (low == best), near, token + 3 * quarter)
    top = tl.max(best, axis=0)
    winner = tl.min(tl.where(best == top, found, 2147483647), axis=0)
    peak, total = _log_sum(raw + row * raw_stride, token, vocab, quarter, weighed)
    place = partials + row * 4 * parts + part
    tl.store(place, top)
    tl.store(place + parts, winner.to(tl.float32, bitcast=True))
    tl.store(place + 2 * parts, peak)
    tl.store(place + 3 * parts, total)


@triton.jit
def _score(line, token, vocab, bits, coolness, temperature, cutoff):
    """``x * coolness + noise``, or ``x`` at temperature 0; -inf below the cutoff and past the vocabulary."""
    x = tl.load(line + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    score = x * coolness - tl.log(_exponential(bits)) if temperature > 0 else x
    return tl.where(x >= cutoff, score, float("-inf"))


@triton.jit
def _exponential(bits):
    """Exponentially distributed numbers from 32 random bits, exact where small: those win the race."""
    u = (bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    return tl.where(u < 0.001, u + 0.5 * u * u, -tl.log(1.0 - tl.minimum(u, 0.99999994)))


@triton.jit
def _log_sum(line, token, vocab, quarter: tl.constexpr, weighed: tl.constexpr):
    low = float("-inf")
    a = tl.load(line + token, mask=token < vocab, other=low).to(tl.float32)
    b = tl.load(line + token + quarter, mask=token + quarter < vocab, other=low).to(tl.float32)
    c = tl.load(line + token + 2 * quarter, mask=token + 2 * quarter < vocab, other=low).to(tl.float32)
    d = tl.load(line + token + 3 * quarter, mask=token + 3 * quarter < vocab, other=low).to(tl.float32)
    peak = tl.max(tl.maximum(tl.maximum(a, b), tl.maximum(c, d)), axis=0)
    base = tl.where(peak == low, 0.0, peak)
    if weighed:
        total = tl.exp(a - base) + tl.exp(b - base) + tl.exp(c - base) + tl.exp(d - base)
    else:
        total = _unsound(a) + _unsound(b) + _unsound(c) + _unsound(d)
    return peak, tl.sum(total, axis=0)


@triton.jit
def _unsound(x):
    """NaN where ``x`` is NaN or +inf, else 0."""
    return tl.where(x == float("-inf"), 0.0, x - x)


@triton.jit
def _winner_kernel(
    raw, partials, tokens, logprobs, raw_stride, parts, block: tl.constexpr, weighed: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, block)
    inside = part < parts
    place = partials + row * 4 * parts + part
    score = tl.load(place, mask=inside, other=float("-inf"))
    winner = tl.load(place + parts, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    peak = tl.load(place + 2 * parts, mask=inside, other=float("-inf"))
    total = tl.load(place + 3 * parts, mask=inside, other=0.0)
    top = tl.max(score, axis=0)
    token = tl.min(tl.where((score == top) & inside, winner, 2147483647), axis=0)
    base = tl.max(peak, axis=0)
    sums = tl.where(peak > float("-inf"), total * tl.exp(peak - base), 0.0) if weighed else total
    whole = tl.sum(sums, axis=0)
    sound = (whole < float("inf")) & (base > float("-inf")) & (token < 2147483647)
    tl.store(tokens + row, tl.where(sound, token, -1).to(tl.int64))
    if weighed:
        chosen = tl.load(raw + row * raw_stride + token, mask=sound, other=0.0).to(tl.float32)
        tl.store(logprobs + row, chosen - base - tl.log(whole))
