"""Log probabilities of sampled tokens on their way to the host, for which nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from octavo_engine.messages import TokenLogprobs
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.sampler import Ranking, rank, ranked_tokens
from octavo_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class RankedOnTheWay:
    """Of the sequences at ``places`` of a step: each one's token and its ``counts`` best others."""

    places: list[int]
    counts: list[int]
    ranking: Ranking  # in pinned memory

    def entries(self) -> Iterator[tuple[int, TokenLogprobs]]:
        """(place, log probabilities) once the step is done."""
        return zip(self.places, ranked_tokens(self.ranking, self.counts), strict=True)


def rank_sampled(logits: Tensor, tokens: Tensor, params: list[SamplingParams]) -> RankedOnTheWay:
    """Of those that ask. ``logits`` [n, vocab] are as the model gave them, ``tokens`` [n] on the device."""
    places = [i for i, p in enumerate(params) if p.logprobs is not None]
    counts = [params[i].logprobs or 0 for i in places]
    index = upload(np.array(places, dtype=np.int64), logits.device)
    chosen = tokens.index_select(0, index).clamp_min(0)
    found = rank(logits.index_select(0, index).float(), chosen, max(counts))
    return RankedOnTheWay(places, counts, Ranking(*(_to_host(part) for part in found)))


def _to_host(part: Tensor) -> Tensor:
    if not part.is_cuda:
        return part.clone()
    host = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
    host.copy_(part, non_blocking=True)
    return host
