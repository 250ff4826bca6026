"""From logits to tokens and their log probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from octavo_engine.messages import SampledToken, TokenLogprobs
from octavo_engine.runner.kernels.sampling import draw, filter_logits, uniforms
from octavo_engine.runner.logits_processors import process_logits
from octavo_engine.runner.sampling_batch import SamplingBatch, heat

NOT_A_NUMBER = (
    "The model's output for this request was not a number (NaN or infinity); "
    "its weights may be unsound, or --dtype too narrow: try --dtype float32."
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """``token_ids`` in the batch's order (0 for a failed sequence)."""

    token_ids: list[int]
    tokens: list[SampledToken]
    failed: dict[int, str]


@dataclass(frozen=True, slots=True)
class Sampler:
    eos_token_ids: tuple[int, ...]

    def sample(self, raw: Tensor, batch: SamplingBatch) -> Sampled:
        """Draw one token for each row of ``raw`` [n, vocab] (float32).

        A row whose logits are not numbers fails its own sequence. Log probabilities are those of the model,
        before penalties, temperature and filters.
        """
        logits = process_logits(raw, batch, self.eos_token_ids)
        best, token_ids = logits.max(dim=-1)
        sound = best.isfinite()
        if not bool(sound.all()):
            logits = logits.masked_fill(~sound[:, None], 0.0)
        if len(batch.random_rows):
            rows = torch.from_numpy(batch.random_rows).to(logits.device)
            token_ids[rows] = _draw_rows(logits, rows, batch)
        logprobs = self._logprobs(raw, token_ids, batch)
        return _collect(token_ids.tolist(), sound.tolist(), logprobs, batch)

    def _logprobs(self, raw: Tensor, chosen: Tensor, batch: SamplingBatch) -> list[TokenLogprobs | None]:
        found: list[TokenLogprobs | None] = [None] * len(batch.params)
        asking = [i for i, params in enumerate(batch.params) if params.logprobs is not None]
        if asking:
            counts = [batch.params[i].logprobs or 0 for i in asking]
            for i, entry in zip(asking, rank_tokens(raw[asking], chosen[asking], counts), strict=True):
                found[i] = entry
        return found


class Ranking(NamedTuple):
    """Of n rows: the chosen token, its log probability and rank [n], the best tokens and theirs [n, k]."""

    chosen: Tensor
    logprobs: Tensor
    ranks: Tensor
    best: Tensor
    best_logprobs: Tensor


def rank_tokens(logits: Tensor, chosen: Tensor, counts: list[int]) -> list[TokenLogprobs]:
    """For each row of ``logits`` [n, vocab]: the ``chosen`` token, its rank, and its count of best ones."""
    return ranked_tokens(rank(logits, chosen, max(counts)), counts)


def rank(logits: Tensor, chosen: Tensor, count: int) -> Ranking:
    """The same on the device, with ``count`` best tokens of every row; nothing waits for it."""
    logprobs = logits.log_softmax(dim=-1)
    mine = logprobs.gather(-1, chosen[:, None])
    ranks = (logprobs > mine).sum(dim=-1) + 1
    best = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    return Ranking(chosen, mine[:, 0], ranks, best.indices, best.values)


def ranked_tokens(ranking: Ranking, counts: list[int]) -> list[TokenLogprobs]:
    """For the user: each row with its own count of best tokens."""
    rows = zip(*(part.tolist() for part in ranking), counts, strict=True)
    return [
        TokenLogprobs([token, *ids[:count]], [value, *values[:count]], rank)
        for token, value, rank, ids, values, count in rows
    ]


def _draw_rows(logits: Tensor, rows: Tensor, batch: SamplingBatch) -> Tensor:
    params = [batch.params[i] for i in batch.random_rows]
    vocab, device = logits.shape[-1], logits.device
    temperatures = torch.tensor([heat(p) for p in params], device=device)
    scaled = logits[rows] / temperatures[:, None]
    filtered = filter_logits(
        scaled,
        torch.tensor([p.top_k if 0 < p.top_k < vocab else vocab for p in params], device=device),
        torch.tensor([p.top_p for p in params], device=device),
        torch.tensor([p.min_p for p in params], device=device),
    )
    numbers = uniforms(batch.seeds[batch.random_rows], batch.output_lens[batch.random_rows])
    return draw(filtered, torch.from_numpy(numbers).to(device))


def _collect(
    token_ids: list[int], sound: list[bool], logprobs: list[TokenLogprobs | None], batch: SamplingBatch
) -> Sampled:
    tokens = [
        SampledToken(seq_id, token, logprob)
        for seq_id, token, logprob, good in zip(batch.seq_ids, token_ids, logprobs, sound, strict=True)
        if good
    ]
    failed = {seq_id: NOT_A_NUMBER for seq_id, good in zip(batch.seq_ids, sound, strict=True) if not good}
    return Sampled(
        [token if good else 0 for token, good in zip(token_ids, sound, strict=True)], tokens, failed
    )
