"""Kernels that only some requests need, compiled at start: the first of these would hold up all others."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.runner.kernels.triton.adjust import KNOBS, LogitMemory, adjust
from octavo_engine.runner.kernels.triton.sampling import SamplingColumns, sample

_ROWS = 16  # kernels are compiled for numbers of rows that 16 divides


def compile_sampling(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Filters and penalties over logits of ``dtype``."""
    raw = torch.zeros(1, vocab, dtype=dtype, device=device)
    columns = _columns(device)
    for logits in (raw, adjust(raw, columns.seeds, columns.seeds, _memory(vocab, device))):
        for filtered in (False, True):
            sample(logits, columns, filtered=filtered, logprobs=False)


def _columns(device: torch.device) -> SamplingColumns:
    def column(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((1,), value, dtype=dtype, device=device)

    real, whole = torch.float32, torch.int64
    return SamplingColumns(
        column(1, real),
        column(5, torch.int32),
        column(0.5, real),
        column(0.01, real),
        column(0, whole),
        column(0, whole),
    )


def _memory(vocab: int, device: torch.device) -> LogitMemory:
    return LogitMemory(
        torch.zeros(_ROWS, vocab, dtype=torch.int32, device=device),
        torch.zeros(_ROWS, vocab, device=device),
        torch.ones(KNOBS, _ROWS, device=device),
    )
