"""A step in the making: what the scheduler has decided so far, as the runner will be told it."""

from __future__ import annotations

from octavo_engine.messages import SequenceStart, SequenceStep, StepInput
from octavo_engine.request import Sequence


class StepDraft:
    """Collects one :class:`StepInput`; ended rows and swaps stay until a step that computes carries them."""

    __slots__ = ("block_changes", "copies", "decodes", "ended", "prefills", "starts", "swap_in", "swap_out")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.ended: list[int] = []
        self.swap_out: list[tuple[int, int]] = []
        self.swap_in: list[tuple[int, int]] = []
        self.copies: list[tuple[int, int]] = []
        self.block_changes: list[tuple[int, int, int]] = []
        self.starts: list[SequenceStart] = []
        self.decodes: list[SequenceStep] = []
        self.prefills: list[SequenceStep] = []

    def start_row(self, seq: Sequence) -> None:
        """The runner's row of ``seq`` begins with its present block table."""
        self.starts.append(
            SequenceStart(
                seq_id=seq.seq_id,
                token_ids=seq.token_ids.copy(),
                num_prompt_tokens=seq.request.num_prompt_tokens,
                params=seq.request.params,
                block_ids=seq.block_table.copy(),
                num_computed_tokens=seq.num_computed,
                index=seq.index,
            )
        )

    @property
    def is_empty(self) -> bool:
        return not (self.decodes or self.prefills)

    def build(self, step_id: int) -> StepInput:
        """The step, after which the draft is empty."""
        step = StepInput(
            step_id=step_id,
            ended=self.ended,
            swap_out=self.swap_out,
            swap_in=self.swap_in,
            copies=self.copies,
            block_changes=self.block_changes,
            starts=self.starts,
            sequences=self.decodes + self.prefills,
        )
        self._clear()
        return step
