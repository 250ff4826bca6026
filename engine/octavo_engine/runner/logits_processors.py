"""Changes to single sequences' logits before sampling: penalties, bias, and tokens that may not come yet."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.runner.sampling_batch import SamplingBatch
from octavo_engine.sampling_params import SamplingParams


def process_logits(logits: Tensor, batch: SamplingBatch, eos_token_ids: tuple[int, ...]) -> Tensor:
    """``logits`` [n, vocab] float32, changed where a sequence asks for it; a copy when any does."""
    touched = [i for i, params in enumerate(batch.params) if changes_logits(params)]
    if not touched:
        return logits
    logits = logits.clone()
    for i in touched:
        params, tokens = batch.params[i], batch.tokens[i]
        _penalize(logits[i], params, tokens, int(batch.prompt_lens[i]))
        _bias(logits[i], params)
        _forbid_the_end(logits[i], params, batch.output_len(i), eos_token_ids)
    return logits


def changes_logits(params: SamplingParams) -> bool:
    """Whether a sequence asks for any of it."""
    return (
        bool(params.logit_bias)
        or params.min_tokens > 0
        or params.repetition_penalty != 1.0
        or params.frequency_penalty != 0.0
        or params.presence_penalty != 0.0
    )


def ends(params: SamplingParams, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens that may not come before ``min_tokens``."""
    return (*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids))


def _penalize(row: Tensor, params: SamplingParams, tokens: NDArray[np.int32], prompt_len: int) -> None:
    """Repetition (Keskar et al. 2019) over prompt and output; OpenAI's two over the output."""
    if params.repetition_penalty != 1.0:
        seen = _tensor(np.unique(tokens), row)
        found = row[seen]
        penalty = params.repetition_penalty
        row[seen] = torch.where(found > 0, found / penalty, found * penalty)
    if params.frequency_penalty or params.presence_penalty:
        ids, counts = np.unique(tokens[prompt_len:], return_counts=True)
        loss = _tensor(counts, row) * params.frequency_penalty + params.presence_penalty
        row[_tensor(ids, row)] -= loss


def _bias(row: Tensor, params: SamplingParams) -> None:
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=row.device)
        row[ids] += torch.tensor(list(params.logit_bias.values()), dtype=row.dtype, device=row.device)


def _forbid_the_end(row: Tensor, params: SamplingParams, output_len: int, eos: tuple[int, ...]) -> None:
    if output_len < params.min_tokens:
        known = [token for token in ends(params, eos) if token < len(row)]
        row[torch.tensor(known, dtype=torch.int64, device=row.device)] = -torch.inf


def _tensor(array: NDArray[np.int32] | NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(array.astype(np.int64)).to(like.device)
