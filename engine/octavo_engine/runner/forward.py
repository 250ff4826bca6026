"""One step, from its input to its result."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.messages import (
    SampledToken,
    SequenceStart,
    SequenceStep,
    StepInput,
    StepResult,
    TokenLogprobs,
)
from octavo_engine.runner.inputs import ForwardInputs, InputBuilder
from octavo_engine.runner.kv_cache import KVCache
from octavo_engine.runner.models.family import CausalModel
from octavo_engine.runner.parallel.pipe import Pipe
from octavo_engine.runner.prompt_logprobs import prompt_logprobs
from octavo_engine.runner.rows import RowTable
from octavo_engine.runner.sampler import Sampled, Sampler
from octavo_engine.runner.sampling_batch import SamplingBatch
from octavo_engine.sampling_params import SamplingParams

NO_TOKEN = -1

PromptEntries = dict[int, list[TokenLogprobs]]
"""By sequence id."""


@dataclass(frozen=True, slots=True)
class StepExecutor:
    """Applies a step to the rows and the cache, runs the model and samples."""

    model: CausalModel
    cache: KVCache
    rows: RowTable
    inputs: InputBuilder
    sampler: Sampler
    vocab_size: int
    pipe: Pipe

    @torch.inference_mode()
    def run(self, step: StepInput) -> StepResult:
        refused = self.apply(step)
        return self.compute(step, refused) if step.sequences else StepResult(step.step_id, [], refused)

    def compute(self, step: StepInput, refused: dict[int, str]) -> StepResult:
        """Run the model over an applied step, sample and wait for the tokens."""
        carried = self.pipe.blank(sum(s.num_new_tokens for s in step.sequences))
        self.pipe.receive(carried)
        inputs = self.inputs.build(self.rows, step.sequences, carried)
        hidden = self.model(inputs, self.cache.layers)
        if not self.pipe.last:
            self.pipe.send(hidden)
            return StepResult(step.step_id, [], refused)
        sampled = self._sample(hidden, inputs, step.sequences)
        prompts = self.prompt_entries(hidden, inputs.last_tokens, step.sequences)
        tokens = with_prompts(sampled.tokens, prompts)
        sound = [token for token in tokens if token.seq_id not in refused]
        return StepResult(step.step_id, sound, sampled.failed | refused)

    def apply(self, step: StepInput) -> dict[int, str]:
        """Change rows and cache in the protocol's order; returns the starts that were refused."""
        for seq_id, position, token in step.tokens:
            if self.rows.is_live(seq_id):
                self.rows.put_token(seq_id, position, token)
        for seq_id in step.ended:
            self.rows.end(seq_id)
        self.cache.swap(step.swap_out, step.swap_in)
        self.cache.copy(step.copies)
        for seq_id, index, block in step.block_changes:
            self.rows.set_block(seq_id, index, block)
        refused = self._start(step.starts)
        for sequence in step.sequences:
            if sequence.new_block_ids:
                self.rows.append_blocks(sequence.seq_id, sequence.new_block_ids)
        return refused

    def _start(self, starts: list[SequenceStart]) -> dict[int, str]:
        """A start that cannot be served gets harmless tokens: it computes, and its result is dropped."""
        refused = {}
        for start in starts:
            sentence = _unknown_token(start, self.vocab_size)
            if sentence:
                refused[start.seq_id] = sentence
                start = _harmless(start)  # noqa: PLW2901
            self.rows.start(start)
        return refused

    def _sample(self, hidden: Tensor, inputs: ForwardInputs, steps: list[SequenceStep]) -> Sampled:
        chosen = [i for i, step in enumerate(steps) if step.sample]
        if not chosen:
            return Sampled([], [], {})
        sampling = [steps[i] for i in chosen]
        last = torch.from_numpy(inputs.last_tokens[chosen]).to(hidden.device)
        sampled = self.sampler.sample(self.model.logits(hidden[last]), SamplingBatch.of(self.rows, sampling))
        for step, token in zip(sampling, sampled.token_ids, strict=True):
            self.rows.put_token(step.seq_id, step.num_computed_tokens + step.num_new_tokens, token)
        return sampled

    def prompt_entries(
        self, hidden: Tensor, last_tokens: NDArray[np.int64], steps: list[SequenceStep]
    ) -> PromptEntries:
        """The prompts' log probabilities that a step's hidden states give; waits for the device."""
        asking = [i for i, step in enumerate(steps) if self.rows.wants_prompt_logprobs(step.seq_id)]
        return {
            steps[i].seq_id: entries
            for i in asking
            if (entries := self._prompt_logprobs(hidden, int(last_tokens[i]), steps[i]))
        }

    def _prompt_logprobs(self, hidden: Tensor, last: int, step: SequenceStep) -> list[TokenLogprobs]:
        first = step.num_computed_tokens + 1
        targets = self.rows.prompt(step.seq_id)[first : first + step.num_new_tokens]
        states = hidden[last + 1 - step.num_new_tokens :][: len(targets)]
        return prompt_logprobs(self.model.logits, states, targets, self.rows.prompt_logprobs(step.seq_id))


def with_prompts(tokens: list[SampledToken], prompts: PromptEntries) -> list[SampledToken]:
    """Adds the prompts' log probabilities; a chunk that samples nothing reports them with token -1."""
    by_id = {token.seq_id: token for token in tokens}
    for seq_id, entries in prompts.items():
        sampled = by_id.get(seq_id, SampledToken(seq_id, NO_TOKEN))
        by_id[seq_id] = SampledToken(seq_id, sampled.token_id, sampled.logprobs, entries)
    return list(by_id.values())


def _unknown_token(start: SequenceStart, vocab_size: int) -> str | None:
    """A sentence when a token of the prompt or of logit_bias is outside of the vocabulary."""
    for name, ids in (("prompt", start.token_ids), ("logit_bias", start.params.logit_bias or ())):
        unknown = next((token for token in ids if not 0 <= token < vocab_size), None)
        if unknown is not None:
            return f"Token id {unknown} in {name} is not below the vocabulary size {vocab_size}."
    return None


def _harmless(start: SequenceStart) -> SequenceStart:
    return msgspec.structs.replace(start, token_ids=[0] * len(start.token_ids), params=SamplingParams())
