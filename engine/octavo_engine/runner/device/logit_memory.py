"""What changes the logits of rows on the device: kept up to date by difference, made when first asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.runner.kernels.triton.adjust import (
    IN_PROMPT,
    IS_END,
    KNOBS,
    LogitMemory,
    adjust,
    count_tokens,
)
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.logits_processors import changes_logits, ends
from octavo_engine.runner.rows import RowTable
from octavo_engine.sampling_params import SamplingParams


class RowMemory:
    """Follows a :class:`RowTable`: which tokens its rows have seen, their biases and penalties."""

    def __init__(
        self, rows: RowTable, vocab: int, eos_token_ids: tuple[int, ...], device: torch.device
    ) -> None:
        self._rows, self._vocab, self._eos, self._device = rows, vocab, eos_token_ids, device
        self._memory: LogitMemory | None = None

    def start(self, index: NDArray[np.int64]) -> None:
        """The rows ``index`` begin."""
        params = [self._rows.params[row] for row in index]
        if self._memory is None and not any(map(changes_logits, params)):
            return
        memory = self._grown()
        self._set_knobs(memory, index, params)
        asking = [(row, p) for row, p in zip(index.tolist(), params, strict=True) if changes_logits(p)]
        if asking:
            self._set_seen(memory, asking)
            self._set_bias(memory, [(row, p.logit_bias) for row, p in asking if p.logit_bias])

    def adjust(self, logits: Tensor, rows: Tensor, output_lens: Tensor) -> Tensor:
        """The logits [n, vocab] as ``rows`` [n] want them, float32; one of them must have asked."""
        assert self._memory is not None
        return adjust(logits, rows, output_lens, self._memory)

    def count(self, tokens: Tensor, rows: Tensor) -> None:
        """``tokens`` [n] were sampled for ``rows`` [n]."""
        if self._memory is not None:
            count_tokens(tokens, rows, self._memory)

    def _grown(self) -> LogitMemory:
        capacity, old = len(self._rows.params), self._memory
        if old is None or old.seen.shape[0] < capacity:
            shape = capacity, self._vocab
            self._memory = LogitMemory(
                torch.zeros(shape, dtype=torch.int32, device=self._device),
                torch.zeros(shape, device=self._device),
                torch.zeros(KNOBS, capacity, device=self._device),
            )
            if old is not None:
                self._memory.seen[: old.seen.shape[0]] = old.seen
                self._memory.bias[: old.bias.shape[0]] = old.bias
                self._memory.knobs[:, : old.knobs.shape[1]] = old.knobs
        assert self._memory is not None
        return self._memory

    def _set_knobs(self, memory: LogitMemory, index: NDArray[np.int64], params: list[SamplingParams]) -> None:
        knobs = np.array([_knobs(p) for p in params], dtype=np.float32).T
        memory.knobs.index_copy_(1, upload(index, self._device), upload(knobs, self._device))

    def _set_seen(self, memory: LogitMemory, asking: list[tuple[int, SamplingParams]]) -> None:
        found = [self._seen(row, params) for row, params in asking]
        self._write(memory.seen, [row for row, _ in asking], found)

    def _set_bias(self, memory: LogitMemory, biases: list[tuple[int, dict[int, float]]]) -> None:
        found = [
            (row * self._vocab + np.array(list(bias)), np.array(list(bias.values()), dtype=np.float32))
            for row, bias in biases
        ]
        if found:
            self._write(memory.bias, [row for row, _ in biases], found)

    def _write(
        self,
        table: Tensor,
        rows: list[int],
        found: Sequence[tuple[NDArray[np.int64], NDArray[np.generic]]],
    ) -> None:
        """Empty ``rows`` of ``table`` and add ``found``: places in the flat table, and what comes there."""
        table.index_fill_(0, upload(np.array(rows, dtype=np.int64), self._device), 0)
        places = upload(np.concatenate([place for place, _ in found]), self._device)
        table.view(-1).index_add_(
            0, places, upload(np.concatenate([value for _, value in found]), self._device)
        )

    def _seen(self, row: int, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        known = self._rows.token_ids[row, : self._rows.start_lens[row]]
        prompt = np.unique(known[: self._rows.prompt_lens[row]])
        output, counts = np.unique(known[self._rows.prompt_lens[row] :], return_counts=True)
        last = np.unique([token for token in ends(params, self._eos) if token < self._vocab]).astype(np.int64)
        tokens = np.concatenate([prompt, output, last]).astype(np.int64)
        marks = [np.full(len(prompt), IN_PROMPT), counts, np.full(len(last), IS_END)]
        return row * self._vocab + tokens, np.concatenate(marks).astype(np.int32)


def _knobs(params: SamplingParams) -> tuple[float, ...]:
    return (
        float(changes_logits(params)),
        float(bool(params.logit_bias)),
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
        float(params.min_tokens),
    )
