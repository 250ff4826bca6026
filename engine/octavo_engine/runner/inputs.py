"""The tensors of one forward pass, built from the runner's rows without a loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.messages import SequenceStep
from octavo_engine.runner.architecture import Windows
from octavo_engine.runner.kernels.attention import SequenceLayout
from octavo_engine.runner.kernels.ops import Operators, Plans
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.rows import RowTable

_TABLE_STEP = 64  # blocks; kernels are compiled for widths that 16 divides


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """``token_ids``, ``positions`` and ``slot_mapping`` are [tokens] int64, sequences one after another."""

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    plans: Plans  # for each window of the model's layers
    last_tokens: NDArray[np.int64]  # [sequences] index of each sequence's last token in the batch
    carried: Tensor | None = None  # [tokens, hidden] from the stage before


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A step as the host sees it; the arrays of tokens are those of :class:`ForwardInputs`."""

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    sequences: SequenceLayout
    last_tokens: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class InputBuilder:
    block_size: int
    null_slot: int
    windows: Windows  # of the model's layers
    device: torch.device
    ops: Operators

    def build(
        self, rows: RowTable, steps: list[SequenceStep], carried: Tensor | None = None
    ) -> ForwardInputs:
        return self.place(self.lay_out(rows, steps), carried)

    def place(self, layout: StepLayout, carried: Tensor | None = None) -> ForwardInputs:
        """The layout as tensors on the device."""
        return ForwardInputs(
            upload(layout.token_ids, self.device),
            upload(layout.positions, self.device),
            upload(layout.slots, self.device),
            self.ops.plan_attention(layout.sequences, self.windows),
            layout.last_tokens,
            carried,
        )

    def lay_out(self, rows: RowTable, steps: list[SequenceStep]) -> StepLayout:
        index = rows.indices([step.seq_id for step in steps])
        computed = np.array([step.num_computed_tokens for step in steps], dtype=np.int64)
        counts = np.array([step.num_new_tokens for step in steps], dtype=np.int64)
        ends = np.cumsum(counts)
        row_of_token = np.repeat(index, counts)
        positions = np.arange(ends[-1]) + np.repeat(computed - ends + counts, counts)
        blocks = rows.block_tables[row_of_token, positions // self.block_size].astype(np.int64)
        blocks_used = -(-int((computed + counts).max()) // self.block_size)
        width = -(-blocks_used // _TABLE_STEP) * _TABLE_STEP
        sequences = SequenceLayout(
            rows.block_tables[index, :width],
            computed + counts,
            counts,
            _leading_ones(counts),
            self.block_size,
            self.null_slot,
        )
        return StepLayout(
            rows.token_ids[row_of_token, positions].astype(np.int64),
            positions,
            blocks * self.block_size + positions % self.block_size,
            sequences,
            ends - 1,
        )


def _leading_ones(counts: NDArray[np.int64]) -> int:
    """How many sequences from the front have one new token: those are decoded as one batch."""
    longer = np.flatnonzero(counts != 1)
    return int(longer[0]) if len(longer) else len(counts)
