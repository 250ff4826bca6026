"""Steps on a GPU: launched without waiting for anything, so that the next one is prepared meanwhile.

Sampled tokens stay on the device and feed the next step; the host learns of them when it collects. Only a
step that tells a prompt's log probabilities waits for them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.messages import SampledToken, SequenceStep, StepInput, StepResult
from octavo_engine.runner.device.chunks import ChunkGraphs
from octavo_engine.runner.device.decode import DecodeBatch, DecodeGraphs
from octavo_engine.runner.device.ranked import RankedOnTheWay, rank_sampled
from octavo_engine.runner.device.rows import CHANGES, FILTERS, RANKING, DeviceRows
from octavo_engine.runner.forward import PromptEntries, StepExecutor, with_prompts
from octavo_engine.runner.kernels.triton.sampling import sample
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.sampler import NOT_A_NUMBER

_IN_FLIGHT = -1  # stands in the host's rows for a token that only the device knows


@dataclass(slots=True)
class _Launched:
    """A step under way. ``tokens`` is pinned memory that is filled by the time of ``done``."""

    step_id: int
    sampling: list[SequenceStep]
    tokens: Tensor
    refused: dict[int, str]
    done: torch.cuda.Event | None
    ranked: RankedOnTheWay | None = None
    prompts: PromptEntries = field(default_factory=dict)
    result: StepResult | None = None


class DeviceSteps:
    """Launches and collects steps over a :class:`StepExecutor`'s rows, cache and model."""

    def __init__(
        self,
        executor: StepExecutor,
        rows: DeviceRows,
        batch: DecodeBatch,
        graphs: DecodeGraphs,
        chunks: ChunkGraphs,
    ) -> None:
        self._executor, self._rows, self._batch = executor, rows, batch
        self._graphs, self._chunks = graphs, chunks
        self._device = rows.last_tokens.device
        self._launched: deque[_Launched] = deque()

    @torch.inference_mode()
    def launch(self, step: StepInput) -> None:
        executor = self._executor
        refused = executor.apply(step)
        self._rows.follow(step)
        index = executor.rows.indices([s.seq_id for s in step.sequences])
        if not step.sequences:
            result = StepResult(step.step_id, [], refused)
            self._launched.append(_Launched(step.step_id, [], torch.empty(0), refused, None, result=result))
        else:
            self._launched.append(self._run(step, index, refused))

    def ready(self) -> bool:
        oldest = self._launched[0]
        if oldest.result is not None or oldest.done is None:
            return True
        return bool(oldest.done.query())  # type: ignore[no-untyped-call]

    def collect(self) -> StepResult:
        return self._resolve(self._launched.popleft())

    def shutdown(self) -> None:
        self._launched.clear()

    def _asked(self, index: NDArray[np.int64]) -> int:
        """Everything that any of these rows asks of sampling."""
        return int(np.bitwise_or.reduce(self._rows.asks[index]))

    def _run(self, step: StepInput, index: NDArray[np.int64], refused: dict[int, str]) -> _Launched:
        steps = step.sequences
        sampling = [s for s in steps if s.sample]
        index = index[[s.sample for s in steps]]
        ends = np.array([s.num_computed_tokens + s.num_new_tokens for s in sampling], dtype=np.int64)
        places = upload(np.stack([index, ends]), self._device)
        replay = self._all_decodes(steps, sampling, index)
        hidden, prompts = (self._decode(places), {}) if replay else self._forward(steps)
        self._executor.rows.put_tokens(index, ends, _IN_FLIGHT)
        if not self._executor.pipe.last:
            return self._to_host(step.step_id, [], places, refused, None)
        tokens, ranked = self._sample(hidden, places, index) if sampling else (places, None)
        launched = self._to_host(step.step_id, sampling, tokens, refused, ranked)
        launched.prompts = {seq_id: found for seq_id, found in prompts.items() if seq_id not in refused}
        return launched

    def _all_decodes(
        self, steps: list[SequenceStep], sampling: list[SequenceStep], index: NDArray[np.int64]
    ) -> bool:
        """Whether each sequence computes its last sampled token alone and samples the next."""
        if len(sampling) < len(steps) or len(steps) > self._graphs.most:
            return False
        lens = self._executor.rows.start_lens[index].tolist()
        return all(
            s.num_new_tokens == 1 and s.num_computed_tokens >= n for s, n in zip(steps, lens, strict=True)
        )

    def _decode(self, places: Tensor) -> Tensor:
        count = places.shape[1]
        size = self._graphs.padded(count)
        self._batch.fill(self._rows, places, self._executor.inputs.block_size, size)
        self._executor.pipe.receive(self._batch.carried_of(count))
        hidden = self._graphs.run(size)[:count]
        self._executor.pipe.send(hidden)
        return hidden

    def _forward(self, steps: list[SequenceStep]) -> tuple[Tensor, PromptEntries]:
        """Hidden states of the tokens after which something is sampled, and what prompts want to know."""
        executor = self._executor
        layout = executor.inputs.lay_out(executor.rows, steps)
        size, count = self._chunks.padded(layout), len(layout.token_ids)
        if size is None:
            inputs = executor.inputs.place(layout, executor.pipe.blank(count))
        else:
            inputs = self._chunks.fill(size, layout)
        executor.pipe.receive(None if inputs.carried is None else inputs.carried[:count])
        unknown = np.flatnonzero(layout.token_ids == _IN_FLIGHT)
        if len(unknown):
            sequences = np.searchsorted(layout.last_tokens, unknown)
            index = executor.rows.indices([steps[i].seq_id for i in sequences])
            places, rows = upload(np.stack([unknown, index]), self._device)
            inputs.token_ids.index_copy_(0, places, self._rows.last_tokens.index_select(0, rows))
        hidden = executor.model(inputs, executor.cache.layers) if size is None else self._chunks.run(size)
        executor.pipe.send(hidden[:count])
        chosen = [i for i, step in enumerate(steps) if step.sample]
        sampled = hidden.index_select(0, upload(layout.last_tokens[chosen], self._device))
        if not executor.pipe.last:
            return sampled, {}
        return sampled, executor.prompt_entries(hidden[:count], layout.last_tokens, steps)

    def _sample(
        self, hidden: Tensor, places: Tensor, index: NDArray[np.int64]
    ) -> tuple[Tensor, RankedOnTheWay | None]:
        asked, columns = self._asked(index), self._rows.sampling_columns(places)
        raw = logits = self._executor.model.raw_logits(hidden)
        if asked & CHANGES:
            logits = self._rows.adjust(raw, places[0], columns)
        tokens, _ = sample(logits, columns, filtered=bool(asked & FILTERS), logprobs=False)
        self._rows.put_tokens(places[0], tokens)
        if not asked & RANKING:
            return tokens, None
        return tokens, rank_sampled(raw, tokens, [self._executor.rows.params[row] for row in index])

    def _to_host(
        self,
        step_id: int,
        sampling: list[SequenceStep],
        tokens: Tensor,
        refused: dict[int, str],
        ranked: RankedOnTheWay | None,
    ) -> _Launched:
        if self._device.type != "cuda":
            return _Launched(step_id, sampling, tokens.clone(), refused, None, ranked)
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Launched(step_id, sampling, host, refused, done, ranked)

    def _resolve(self, launched: _Launched) -> StepResult:
        """Wait for a step and make its tokens known to the host's rows."""
        if launched.result is None:
            if launched.done is not None:
                launched.done.synchronize()
            launched.result = self._result(launched, launched.tokens.tolist() if launched.sampling else [])
        return launched.result

    def _result(self, launched: _Launched, tokens: list[int]) -> StepResult:
        rows, refused = self._executor.rows, launched.refused
        failed, sampled = dict(refused), []
        logprobs = dict(launched.ranked.entries()) if launched.ranked is not None else {}
        for place, (step, token) in enumerate(zip(launched.sampling, tokens, strict=True)):
            if rows.is_live(step.seq_id):
                rows.put_token(step.seq_id, step.num_computed_tokens + step.num_new_tokens, max(token, 0))
            if token < 0:
                failed.setdefault(step.seq_id, NOT_A_NUMBER)
            elif step.seq_id not in refused:
                sampled.append(SampledToken(step.seq_id, token, logprobs.get(place)))
        return StepResult(launched.step_id, with_prompts(sampled, launched.prompts), failed)
