"""Penalties, biases and forbidden ends on the device; the reference is ``logits_processors.process_logits``.

What a row has seen stands in one int32 a token: how often it came out, and two bits beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

IN_PROMPT = 1 << 30
IS_END = 1 << 29  # may not come before min_tokens
_COUNT = tl.constexpr(IS_END - 1)
_IN_PROMPT = tl.constexpr(IN_PROMPT)
_IS_END = tl.constexpr(IS_END)
_BLOCK = 2048

KNOBS = 6  # columns of ``LogitMemory.knobs``: counted, biased, repetition, frequency, presence, min_tokens


@dataclass(frozen=True, slots=True)
class LogitMemory:
    """Of all rows: ``seen`` and ``bias`` [rows, vocab] (int32, float32), ``knobs`` [KNOBS, rows] float32.

    ``seen`` counts where ``counted`` is not 0, ``bias`` where ``biased`` is not; a row of neither is left
    as it is.
    """

    seen: Tensor
    bias: Tensor
    knobs: Tensor


def adjust(logits: Tensor, rows: Tensor, output_lens: Tensor, memory: LogitMemory) -> Tensor:
    """``logits`` [n, vocab] as float32, changed as their ``rows`` [n] int64 ask for.

    ``output_lens`` [n] int64: tokens each has put out.
    """
    count, vocab = logits.shape
    out = torch.empty(count, vocab, dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, triton.next_power_of_2(vocab))
    _adjust_kernel[(count, triton.cdiv(vocab, block))](
        logits, rows, output_lens, memory.seen, memory.bias, memory.knobs, out,
        logits.stride(0), vocab, memory.knobs.stride(0), block, num_warps=4,
    )  # fmt: skip
    return out


def count_tokens(tokens: Tensor, rows: Tensor, memory: LogitMemory) -> None:
    """Note that ``tokens`` [n] came out of ``rows`` [n]; -1 (no number) counts as token 0."""
    counted = memory.knobs[0].index_select(0, rows).int()
    places = rows * memory.seen.shape[1] + tokens.clamp_min(0)
    memory.seen.view(-1).index_add_(0, places, counted)


@triton.jit
def _adjust_kernel(
    logits, rows, output_lens, seen, bias, knobs, out, stride, vocab, capacity, block: tl.constexpr
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * block + tl.arange(0, block)
    inside = token < vocab
    row = tl.load(rows + index)
    x = tl.load(logits + index * stride + token, mask=inside, other=0.0).to(tl.float32)
    counted, biased = tl.load(knobs + row), tl.load(knobs + capacity + row)
    state = tl.load(seen + row * vocab + token, mask=token < tl.where(counted > 0, vocab, 0), other=0)
    repetition = tl.load(knobs + 2 * capacity + row)
    frequency = tl.load(knobs + 3 * capacity + row)
    presence = tl.load(knobs + 4 * capacity + row)
    least = tl.load(knobs + 5 * capacity + row).to(tl.int64)
    came = state & _COUNT
    known = (came > 0) | ((state & _IN_PROMPT) != 0)
    penalized = tl.where(x > 0, x / repetition, x * repetition)
    x = tl.where(known, penalized, x)
    x = tl.where(came > 0, x - (came.to(tl.float32) * frequency + presence), x)
    x += tl.load(bias + row * vocab + token, mask=token < tl.where(biased > 0, vocab, 0), other=0.0)
    early = tl.where(tl.load(output_lens + index) < least, _IS_END, 0)
    x = tl.where((state & early) != 0, float("-inf"), x)
    tl.store(out + index * vocab + token, x, mask=inside)
