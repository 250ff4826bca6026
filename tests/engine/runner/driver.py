"""Drives a ModelRunner through its protocol alone, with block tables in a shuffled order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo_engine.config import (
    CacheConfig,
    CacheDtype,
    Dtype,
    EngineConfig,
    ModelConfig,
    QuantizationMethod,
)
from octavo_engine.messages import (
    SampledToken,
    SequenceStart,
    SequenceStep,
    StepInput,
    StepResult,
    TokenLogprobs,
)
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


def step_input(step_id: int = 0, **changes: object) -> StepInput:
    empty: dict[str, object] = {
        name: []
        for name in ("ended", "swap_out", "swap_in", "copies", "block_changes", "starts", "sequences")
    }
    return StepInput(step_id, **(empty | changes))  # type: ignore[arg-type]


def loaded_runner(
    source: str | Path,
    *,
    dtype: Dtype = "float32",
    block_size: int = 4,
    blocks: int = 64,
    host_blocks: int = 0,
    quantization: QuantizationMethod | None = None,
    cache_dtype: CacheDtype = "auto",
) -> ModelRunner:
    config = EngineConfig(
        model=ModelConfig(source=str(source), dtype=dtype, device="cpu", quantization=quantization),
        cache=CacheConfig(block_size=block_size, num_blocks=blocks, dtype=cache_dtype),
    )
    runner = ModelRunner(config)
    runner.load()
    runner.allocate(blocks, host_blocks)
    return runner


@dataclass
class Seq:
    seq_id: int
    tokens: list[int]
    params: SamplingParams
    prompt_len: int
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    started: bool = False
    sampled: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def output(self) -> list[int]:
        return [token.token_id for token in self.sampled]


class Driver:
    """A scheduler's place, without its decisions: the test says how many tokens each sequence computes."""

    def __init__(self, runner: ModelRunner, *, blocks: int = 64, block_size: int = 4, seed: int = 0) -> None:
        self.runner = runner
        self._block_size = block_size
        self._free = list(range(blocks))
        random.Random(seed).shuffle(self._free)
        self._seqs: dict[int, Seq] = {}
        self._ended: list[int] = []
        self._step = 0

    def add(self, tokens: list[int], params: SamplingParams = GREEDY) -> Seq:
        seq = Seq(len(self._seqs), list(tokens), params, len(tokens))
        self._seqs[seq.seq_id] = seq
        return seq

    def step(self, *work: tuple[Seq, int]) -> StepResult:
        """Compute that many tokens of each sequence; samples where no known token is left."""
        starts, steps = [], []
        for seq, count in work:
            new_blocks = self._blocks_for(seq, seq.computed + count)
            if not seq.started:
                starts.append(self._start(seq, new_blocks))
                new_blocks = []
            sample = seq.computed + count == len(seq.tokens)
            steps.append(SequenceStep(seq.seq_id, seq.computed, count, sample, new_blocks))
            seq.computed += count
        self._step += 1
        self.runner.launch(step_input(self._step, ended=self._ended, starts=starts, sequences=steps))
        self._ended = []
        result = self.runner.collect()
        self._take(result)
        return result

    def preempt(self, seq: Seq) -> None:
        """By recompute: the row ends, its blocks are free, and its tokens are kept."""
        self._ended.append(seq.seq_id)
        self._free += seq.blocks
        seq.blocks, seq.computed, seq.started = [], 0, False

    def finish_prompts(self, seqs: list[Seq], chunk: int) -> None:
        """Compute the prompts in chunks, one chunk of each sequence a step."""
        while any(seq.computed < len(seq.tokens) and not seq.sampled for seq in seqs):
            behind = [seq for seq in seqs if not seq.sampled]
            self.step(*[(seq, min(chunk, len(seq.tokens) - seq.computed)) for seq in behind])

    def generate(
        self, prompts: list[list[int]], params: SamplingParams, count: int, chunk: int = 64
    ) -> list[Seq]:
        """All prompts together: chunks of their prompts, then ``count`` tokens each."""
        seqs = [self.add(prompt, params) for prompt in prompts]
        self.finish_prompts(seqs, chunk)
        while any(len(seq.sampled) < count for seq in seqs):
            self.step(*[(seq, 1) for seq in seqs])
        for seq in seqs:
            seq.sampled = seq.sampled[:count]
        return seqs

    def _start(self, seq: Seq, blocks: list[int]) -> SequenceStart:
        seq.started = True
        return SequenceStart(seq.seq_id, list(seq.tokens), seq.prompt_len, seq.params, blocks, seq.computed)

    def _blocks_for(self, seq: Seq, tokens: int) -> list[int]:
        count = -(-tokens // self._block_size) - len(seq.blocks)
        found = [self._free.pop() for _ in range(count)]
        seq.blocks += found
        return found

    def _take(self, result: StepResult) -> None:
        for token in result.tokens:
            seq = self._seqs[token.seq_id]
            seq.prompt_logprobs += token.prompt_logprobs or []
            if token.token_id >= 0:
                seq.sampled.append(token)
                seq.tokens.append(token.token_id)


def distribution(entry: TokenLogprobs, vocab_size: int) -> NDArray[np.float64]:
    """The log probabilities of all tokens, where an entry lists them all."""
    found = np.full(vocab_size, np.nan)
    found[entry.token_ids] = entry.logprobs
    return found


def distributions(seq: Seq, vocab_size: int) -> NDArray[np.float64]:
    """[positions, vocab]: after each prompt token and each sampled one but the last."""
    entries = [*seq.prompt_logprobs, *(token.logprobs for token in seq.sampled if token.logprobs)]
    return np.stack([distribution(entry, vocab_size) for entry in entries])
