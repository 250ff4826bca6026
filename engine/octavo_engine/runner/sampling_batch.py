"""The sampling parameters of one step's sequences, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from octavo_engine.messages import SequenceStep
from octavo_engine.runner.rows import RowTable
from octavo_engine.sampling_params import SamplingParams

_COLDEST = 1e-30


def heat(params: SamplingParams) -> float:
    """The temperature; one whose inverse is no float32 is greedy."""
    return params.temperature if params.temperature > _COLDEST else 0.0


@dataclass(frozen=True)
class SamplingBatch:
    """Sequences that sample in this step, in the order of the rows of their logits.

    ``tokens[i]`` are all tokens of sequence i so far (prompt and output, int32); the first ``prompt_lens[i]``
    are its prompt. ``seeds`` [n] uint64.
    """

    seq_ids: list[int]
    params: list[SamplingParams]
    tokens: list[NDArray[np.int32]]
    prompt_lens: NDArray[np.int64]
    seeds: NDArray[np.uint64]

    @classmethod
    def of(cls, rows: RowTable, steps: list[SequenceStep]) -> SamplingBatch:
        index = rows.indices([step.seq_id for step in steps])
        known = [step.num_computed_tokens + step.num_new_tokens for step in steps]
        return cls(
            seq_ids=[step.seq_id for step in steps],
            params=[rows.params[row] for row in index],
            tokens=[rows.token_ids[row, :count] for row, count in zip(index, known, strict=True)],
            prompt_lens=rows.prompt_lens[index],
            seeds=rows.seeds[index],
        )

    def output_len(self, i: int) -> int:
        return len(self.tokens[i]) - int(self.prompt_lens[i])

    @cached_property
    def output_lens(self) -> NDArray[np.int64]:
        return np.array([len(tokens) for tokens in self.tokens], dtype=np.int64) - self.prompt_lens

    @cached_property
    def random_rows(self) -> NDArray[np.int64]:
        """Indices of the sequences that are not greedy."""
        return np.array([i for i, params in enumerate(self.params) if heat(params) > 0], dtype=np.int64)
