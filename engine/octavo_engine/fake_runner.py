"""A runner without a model, for tests and for measuring the scheduler.

Its tokens depend only on the tokens before them, and it keeps a simulated KV cache: each slot of a block
holds a digest of all tokens up to its position. Before a sequence computes anything its whole context is read
through its block table and compared: a block that was shared, copied, swapped or reused wrongly is detected.
"""

from __future__ import annotations

from collections import Counter, deque

from octavo_engine.config import EngineConfig
from octavo_engine.messages import (
    RunnerSpec,
    SampledToken,
    SequenceStart,
    SequenceStep,
    StepInput,
    StepResult,
    TokenLogprobs,
)

_MASK = (1 << 64) - 1


class FakeRunnerError(AssertionError):
    """The engine told the runner something unsound."""


def next_digest(digest: int, token_id: int) -> int:
    """The content of a KV slot, from that of the slot before it (0 before the first)."""
    return ((digest ^ (token_id + 1)) * 0x9E3779B97F4A7C15 + (digest >> 29)) & _MASK


class FakeRunner:
    """Implements :class:`octavo_engine.messages.Runner`. ``check=False`` leaves the checks out."""

    bytes_per_token = 1024

    def __init__(
        self,
        config: EngineConfig,
        *,
        vocab_size: int = 1000,
        eos_token_ids: tuple[int, ...] = (0,),
        max_model_len: int = 4096,
        check: bool = True,
    ) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._max_model_len = config.model.max_model_len or max_model_len
        self._check = check
        self._results: deque[StepResult] = deque()
        self._last_step = -1
        self.rows: dict[int, _Row] = {}

    def load(self) -> RunnerSpec:
        bytes_per_block = self._config.cache.block_size * self.bytes_per_token
        return RunnerSpec(self._vocab_size, self._max_model_len, self._eos_token_ids, bytes_per_block)

    def profile_blocks(self) -> tuple[int, int]:
        cache = self._config.cache
        bytes_per_block = cache.block_size * self.bytes_per_token
        num_blocks = (
            cache.cpu_kv_cache_bytes // bytes_per_block if cache.num_blocks is None else cache.num_blocks
        )
        return num_blocks, cache.swap_space_bytes // bytes_per_block

    def allocate(self, num_blocks: int, num_host_blocks: int) -> None:
        size = self._config.cache.block_size
        self._device = [[-1] * size for _ in range(num_blocks)]
        self._host = [[-1] * size for _ in range(num_host_blocks)]

    def launch(self, step: StepInput) -> None:
        """Compute at once; the tokens wait until they are collected, but the rows know them already."""
        _require(step.step_id > self._last_step, f"step {step.step_id} comes after step {self._last_step}")
        _require(bool(step.sequences), f"step {step.step_id} computes nothing")
        self._last_step = step.step_id
        if self._check:
            _check_moves(step)
        self._move_blocks(step)
        self._change_rows(step)
        if self._check:
            self._check_exclusive_writes(step)
        tokens = (self._compute(seq) for seq in step.sequences)
        self._results.append(StepResult(step.step_id, [token for token in tokens if token is not None]))

    def collect(self) -> StepResult:
        return self._results.popleft()

    def shutdown(self) -> None:
        self.rows.clear()

    def _move_blocks(self, step: StepInput) -> None:
        for seq_id in step.ended:
            _require(seq_id in self.rows, f"sequence {seq_id} ended without a row")
            del self.rows[seq_id]
        for source, target in step.swap_out:
            self._host[target] = self._device[source].copy()
        for source, target in step.swap_in:
            self._device[target] = self._host[source].copy()
        for source, target in step.copies:
            self._device[target] = self._device[source].copy()

    def _change_rows(self, step: StepInput) -> None:
        for seq_id, index, block in step.block_changes:
            self.rows[seq_id].table[index] = block
        for start in step.starts:
            _require(start.seq_id not in self.rows, f"sequence {start.seq_id} starts twice")
            self.rows[start.seq_id] = _Row(start)
        for seq in step.sequences:
            self.rows[seq.seq_id].table += seq.new_block_ids

    def _check_exclusive_writes(self, step: StepInput) -> None:
        size = self._config.cache.block_size
        holders = Counter(block for seq in step.sequences for block in self.rows[seq.seq_id].table)
        for seq in step.sequences:
            end = seq.num_computed_tokens + seq.num_new_tokens
            for block in self.rows[seq.seq_id].table[seq.num_computed_tokens // size : -(-end // size)]:
                _require(
                    holders[block] == 1, f"sequence {seq.seq_id} writes block {block}, which others hold"
                )

    def _compute(self, seq: SequenceStep) -> SampledToken | None:
        row, start = self.rows[seq.seq_id], seq.num_computed_tokens
        end = start + seq.num_new_tokens
        _require(
            row.num_computed == start, f"sequence {seq.seq_id}: {row.num_computed} computed, not {start}"
        )
        _require(start < end <= len(row.token_ids), f"sequence {seq.seq_id}: no tokens at [{start}, {end})")
        _require(seq.sample == (end == len(row.token_ids)), f"sequence {seq.seq_id}: sample at {end}")
        if self._check:
            self._check_context(row, seq)
        self._write(row, start, end)
        return self._sample(row, seq, start, end)

    def _check_context(self, row: _Row, seq: SequenceStep) -> None:
        size, start = self._config.cache.block_size, seq.num_computed_tokens
        row.extend_digests()
        for first in range(0, start, size):
            last = min(first + size, start)
            found = self._device[row.table[first // size]][: last - first]
            expected = row.digests[first:last]
            _require(
                found == expected, f"sequence {seq.seq_id}: wrong content at positions {first} to {last - 1}"
            )

    def _write(self, row: _Row, start: int, end: int) -> None:
        size = self._config.cache.block_size
        row.extend_digests()
        for position in range(start, end):
            self._device[row.table[position // size]][position % size] = row.digests[position]
        row.num_computed = end

    def _sample(self, row: _Row, seq: SequenceStep, start: int, end: int) -> SampledToken | None:
        params = row.params
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            targets = row.token_ids[start + 1 : min(end + 1, row.num_prompt_tokens)]
            prompt_logprobs = [_logprobs(token_id) for token_id in targets]
        if not seq.sample:
            return None if prompt_logprobs is None else SampledToken(seq.seq_id, -1, None, prompt_logprobs)
        stream = row.index if params.temperature > 0 else 0
        token_id = (next_digest(row.digests[end - 1], stream) >> 17) % self._vocab_size
        row.token_ids.append(token_id)
        logprobs = None if params.logprobs is None else _logprobs(token_id)
        return SampledToken(seq.seq_id, token_id, logprobs, prompt_logprobs)


class _Row:
    """What a runner knows of a live sequence."""

    __slots__ = ("digests", "index", "num_computed", "num_prompt_tokens", "params", "table", "token_ids")

    def __init__(self, start: SequenceStart) -> None:
        self.token_ids = list(start.token_ids)
        self.num_prompt_tokens = start.num_prompt_tokens
        self.params = start.params
        self.index = start.index
        self.table = list(start.block_ids)
        self.num_computed = start.num_computed_tokens
        self.digests: list[int] = []

    def extend_digests(self) -> None:
        digest = self.digests[-1] if self.digests else 0
        for token_id in self.token_ids[len(self.digests) :]:
            digest = next_digest(digest, token_id)
            self.digests.append(digest)


def _check_moves(step: StepInput) -> None:
    """No move of a step may destroy what another one of the same step still has to read."""
    brought = {device for _, device in step.swap_in}
    saved = [host for _, host in step.swap_out]
    _require(len(set(saved)) == len(saved), "two blocks are swapped out to one")
    _require(not set(saved) & {host for host, _ in step.swap_in}, "a block swapped in was overwritten before")
    _require(
        not brought & {source for source, _ in step.copies}, "a block is copied after it was overwritten"
    )


def _logprobs(token_id: int) -> TokenLogprobs:
    return TokenLogprobs([token_id], [-1.0 - token_id / 1024], 1)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise FakeRunnerError(sentence)
