"""One row per live sequence: its tokens, block table and sampling parameters, changed by difference."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo_engine.messages import SequenceStart
from octavo_engine.sampling_params import SamplingParams

_SMALLEST_CAPACITY = 16
_STREAM = 0xD1342543DE82EF95  # odd and large: streams of nearby seeds do not meet
_T = TypeVar("_T", bound=np.generic)


class RowTable:
    """Arrays with a row per live sequence; they grow when more sequences live at once.

    ``token_ids`` [rows, max_model_len + 1] int32, ``block_tables`` [rows, max_blocks] int32.
    Pages of the arrays that are never written are never taken from the system.
    """

    def __init__(self, max_model_len: int, block_size: int, seed: int) -> None:
        self._width = max_model_len + 1
        self._blocks = -(-self._width // block_size)
        self._random = np.random.default_rng(seed)
        self._row_of: dict[int, int] = {}
        self._free: list[int] = []
        self.params: list[SamplingParams] = []
        self.token_ids = np.zeros((0, self._width), dtype=np.int32)
        self.block_tables = np.zeros((0, self._blocks), dtype=np.int32)
        self.block_counts = np.zeros(0, dtype=np.int64)
        self.prompt_lens = np.zeros(0, dtype=np.int64)
        self.start_lens = np.zeros(0, dtype=np.int64)  # tokens known when the row began
        self.seeds = np.zeros(0, dtype=np.uint64)
        self._grow(_SMALLEST_CAPACITY)

    def __len__(self) -> int:
        return len(self._row_of)

    def is_live(self, seq_id: int) -> bool:
        return seq_id in self._row_of

    def row(self, seq_id: int) -> int:
        return self._row_of[seq_id]

    def params_of(self, seq_id: int) -> SamplingParams:
        return self.params[self._row_of[seq_id]]

    def indices(self, seq_ids: list[int]) -> NDArray[np.int64]:
        return np.array([self._row_of[seq_id] for seq_id in seq_ids], dtype=np.int64)

    def start(self, start: SequenceStart) -> None:
        """Begin the row of a sequence, or begin it again after a preemption."""
        self.end(start.seq_id)
        row = self._take()
        self._row_of[start.seq_id] = row
        self.params[row] = start.params
        self.token_ids[row, : len(start.token_ids)] = start.token_ids
        self.prompt_lens[row] = start.num_prompt_tokens
        self.start_lens[row] = len(start.token_ids)
        self.seeds[row] = self._seed(start)
        self.block_counts[row] = 0
        self.append_blocks(start.seq_id, start.block_ids)

    def end(self, seq_id: int) -> None:
        """Drop a sequence's row; an unknown id is ignored."""
        row = self._row_of.pop(seq_id, None)
        if row is not None:
            self._free.append(row)

    def append_blocks(self, seq_id: int, block_ids: list[int]) -> None:
        row = self._row_of[seq_id]
        count = int(self.block_counts[row])
        self.block_tables[row, count : count + len(block_ids)] = block_ids
        self.block_counts[row] = count + len(block_ids)

    def set_block(self, seq_id: int, index: int, block_id: int) -> None:
        row = self._row_of[seq_id]
        self.block_tables[row, index] = block_id

    def put_token(self, seq_id: int, position: int, token_id: int) -> None:
        """Make a sampled token known to the next step. One past the longest length is dropped."""
        if position < self._width:
            self.token_ids[self._row_of[seq_id], position] = token_id

    def put_tokens(self, rows: NDArray[np.int64], positions: NDArray[np.int64], token_id: int) -> None:
        """The same token in several rows."""
        inside = positions < self._width
        self.token_ids[rows[inside], positions[inside]] = token_id

    def prompt(self, seq_id: int) -> NDArray[np.int32]:
        row = self._row_of[seq_id]
        return self.token_ids[row, : self.prompt_lens[row]]

    def prompt_logprobs(self, seq_id: int) -> int:
        return self.params_of(seq_id).prompt_logprobs or 0

    def wants_prompt_logprobs(self, seq_id: int) -> bool:
        return self.params_of(seq_id).prompt_logprobs is not None

    def _seed(self, start: SequenceStart) -> int:
        """Of the request's n sequences each has a stream of its own, the same whenever it starts again."""
        if start.params.seed is not None:
            return (start.params.seed + start.index * _STREAM) % (1 << 64)
        return int(self._random.integers(1 << 64, dtype=np.uint64))

    def _take(self) -> int:
        if not self._free:
            self._grow(2 * len(self.params))
        return self._free.pop()

    def _grow(self, capacity: int) -> None:
        old = len(self.params)
        self._free.extend(range(capacity - 1, old - 1, -1))
        self.params.extend([SamplingParams()] * (capacity - old))
        self.token_ids = _grown(self.token_ids, capacity)
        self.block_tables = _grown(self.block_tables, capacity)
        self.block_counts = _grown(self.block_counts, capacity)
        self.prompt_lens = _grown(self.prompt_lens, capacity)
        self.start_lens = _grown(self.start_lens, capacity)
        self.seeds = _grown(self.seeds, capacity)


def _grown(array: NDArray[_T], capacity: int) -> NDArray[_T]:
    larger = np.zeros((capacity, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
