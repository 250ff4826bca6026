"""Drawing a token from filtered logits: the torch reference.

A token is drawn by inverting the cumulative distribution in vocabulary order at one uniform number, which
comes from a counter-based generator: what a sequence draws depends on its seed and position alone, never on
the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FEW = 1024  # candidates that are nearly always enough for top_p, found without a full sort


def uniforms(seeds: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] numbers in [0, 1) from ``seeds`` and ``counters`` [n]: the mixer of SplitMix64 (Steele 2014)."""
    with np.errstate(over="ignore"):
        state = _mix(seeds + np.uint64(0x9E3779B97F4A7C15))
        state = _mix(state + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def filter_logits(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set to -inf what the filters drop, in this order: min_p, top_k, top_p.

    ``logits`` is [n, vocab], the others [n]. ``top_k`` of the vocabulary's size, ``top_p`` 1 and ``min_p`` 0
    keep everything. Tokens whose logit equals the last kept one are kept too, so that the outcome does not
    depend on how ties are sorted.
    """
    if bool((min_p > 0).any()):
        floor = logits.amax(dim=-1) + min_p.log()
        logits = logits.masked_fill(logits < floor[:, None], -torch.inf)
    vocab = logits.shape[-1]
    rows = ((top_k < vocab) | (top_p < 1)).nonzero().flatten()
    if rows.numel():
        logits = logits.clone()
        part = logits[rows]
        cutoff = _cutoff(part, top_k[rows], top_p[rows])
        logits[rows] = part.masked_fill(part < cutoff, -torch.inf)
    return logits


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Token ids [n] from ``logits`` [n, vocab] at the uniform ``numbers`` [n] float64."""
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    mass = weights.cumsum(dim=-1, dtype=torch.float64)
    wanted = numbers[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, wanted, right=True).clamp_(max=logits.shape[-1] - 1)[:, 0]


def _cutoff(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """[n, 1] the smallest logit that top_k and then top_p keep."""
    vocab = logits.shape[-1]
    most = int(top_k[top_k < vocab].max()) if bool((top_k < vocab).any()) else 0
    count = min(vocab, max(_FEW, most))
    while True:
        best = logits.topk(count, dim=-1).values
        kept = torch.arange(count, device=logits.device) < top_k[:, None]
        total = torch.where(
            top_k[:, None] < vocab,
            best.masked_fill(~kept, -torch.inf).logsumexp(dim=-1, keepdim=True),
            logits.logsumexp(dim=-1, keepdim=True),
        )
        before = (best - total).exp().cumsum(dim=-1, dtype=torch.float64) - (best - total).exp()
        kept &= before < top_p[:, None]
        whole = kept[:, -1] & (count < vocab)
        if not bool((whole & (top_p < 1)).any()):
            last = kept.sum(dim=-1, keepdim=True).clamp_(min=1) - 1
            unlimited = (top_p >= 1) & (top_k >= vocab)
            return best.gather(-1, last).masked_fill(unlimited[:, None], -torch.inf)
        count = vocab


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
