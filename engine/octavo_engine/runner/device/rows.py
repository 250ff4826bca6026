"""What decoding needs of every live row, on the device; brought up to date by difference."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.messages import StepInput
from octavo_engine.runner.device.logit_memory import RowMemory
from octavo_engine.runner.kernels.triton.inputs import sampling_columns
from octavo_engine.runner.kernels.triton.sampling import SamplingColumns
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.logits_processors import changes_logits
from octavo_engine.runner.rows import RowTable
from octavo_engine.runner.sampling_batch import heat
from octavo_engine.sampling_params import SamplingParams

# What a row asks of sampling, as bits of ``DeviceRows.asks``.
CHANGES, FILTERS, RANKING = 1, 2, 4


class DeviceRows:
    """Tables with the rows of a :class:`RowTable`, which stays the truth about everything but new tokens.

    ``last_tokens`` [rows] int64 is the token of a row that was sampled last; ``tables`` [rows, blocks] int32.
    """

    def __init__(
        self, rows: RowTable, device: torch.device, vocab: int, eos_token_ids: tuple[int, ...]
    ) -> None:
        self._host, self._device = rows, device
        self.asks = np.zeros(len(rows.params), dtype=np.uint8)
        self._memory = RowMemory(rows, vocab, eos_token_ids, device)
        self.tables = torch.zeros(rows.block_tables.shape, dtype=torch.int32, device=device)
        self.last_tokens = torch.zeros(len(rows.params), dtype=torch.int64, device=device)
        self._real = torch.zeros(3, len(rows.params), device=device)  # temperature, top_p, min_p
        self._whole = torch.zeros(
            3, len(rows.params), dtype=torch.int64, device=device
        )  # top_k, seed, prompt

    def follow(self, step: StepInput) -> None:
        """Take over what ``step`` has changed in the host's rows."""
        self._grow(len(self._host.params))
        self._follow_tables(step)
        if step.tokens:
            self._follow_tokens(step)
        if step.starts:
            self._follow_starts(self._host.indices([start.seq_id for start in step.starts]))

    def put_tokens(self, rows: Tensor, tokens: Tensor) -> None:
        """Make sampled ``tokens`` [n] the last ones of ``rows`` [n]; -1 (no number) becomes token 0."""
        self.last_tokens.index_copy_(0, rows, tokens.clamp_min(0))
        self._memory.count(tokens, rows)

    def adjust(self, logits: Tensor, rows: Tensor, columns: SamplingColumns) -> Tensor:
        """Logits [n, vocab] with the penalties and biases of ``rows`` [n], of which one must ask for some."""
        return self._memory.adjust(logits, rows, columns.counters)

    def sampling_columns(self, places: Tensor) -> SamplingColumns:
        """For ``places`` [2, n]: rows, and how many tokens each has."""
        return sampling_columns(places, self._real, self._whole)

    def _follow_tokens(self, step: StepInput) -> None:
        """Tokens that another stage sampled."""
        live = [
            (self._host.row(seq_id), token) for seq_id, _, token in step.tokens if self._host.is_live(seq_id)
        ]
        if live:
            rows, tokens = upload(np.array(live, dtype=np.int64).T, self._device)
            self.last_tokens.index_copy_(0, rows, tokens)

    def _follow_tables(self, step: StepInput) -> None:
        host = self._host
        width = host.block_tables.shape[1]
        places = [(host.row(seq_id), index, index + 1) for seq_id, index, _ in step.block_changes]
        places += [(host.row(start.seq_id), 0, len(start.block_ids)) for start in step.starts]
        for sequence in step.sequences:
            if sequence.new_block_ids:
                row = host.row(sequence.seq_id)
                end = int(host.block_counts[row])
                places.append((row, end - len(sequence.new_block_ids), end))
        if places:
            spans = [np.arange(row * width + first, row * width + end) for row, first, end in places]
            flat = np.concatenate(spans)
            changed = upload(np.stack([flat, host.block_tables.reshape(-1)[flat]]), self._device)
            self.tables.view(-1).index_copy_(0, changed[0], changed[1].int())

    def _follow_starts(self, rows: NDArray[np.int64]) -> None:
        host = self._host
        self._memory.start(rows)
        params = [host.params[row] for row in rows]
        self.asks[rows] = [_asks(p) for p in params]
        real = np.array([[heat(p), p.top_p, p.min_p] for p in params], dtype=np.float32).T
        top_k = np.array([max(p.top_k, 0) for p in params], dtype=np.int64)
        whole = np.stack([rows, top_k, host.seeds[rows].view(np.int64), host.prompt_lens[rows]])
        index, *columns = upload(whole, self._device)
        self._real.index_copy_(1, index, upload(real, self._device))
        self._whole.index_copy_(1, index, torch.stack(columns))

    def _grow(self, capacity: int) -> None:
        missing = capacity - self.tables.shape[0]
        if missing > 0:
            self.asks = np.pad(self.asks, (0, missing))
            self.tables = torch.nn.functional.pad(self.tables, (0, 0, 0, missing))
            self.last_tokens = torch.nn.functional.pad(self.last_tokens, (0, missing))
            self._real = torch.nn.functional.pad(self._real, (0, missing))
            self._whole = torch.nn.functional.pad(self._whole, (0, missing))


def _asks(params: SamplingParams) -> int:
    filters = params.temperature > 0 and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0)
    asked = CHANGES if changes_logits(params) else 0
    asked |= FILTERS if filters else 0
    return asked | (RANKING if params.logprobs is not None else 0)
