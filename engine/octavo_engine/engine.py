"""The engine core: one loop of schedule -> launch -> collect around a scheduler and a runner.

With ``steps_in_flight`` 2 the loop overlaps: step N+1 is scheduled and launched while step N still computes.

    step():   schedule N+1 ─ launch N+1 ─ collect N ─ outputs of N
    runner:   ──── computing N ───────────────────┤──── computing N+1 ───
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from octavo_engine.config import EngineConfig
from octavo_engine.errors import ConfigError, OutOfMemory, RequestError
from octavo_engine.messages import (
    AddRequest,
    EngineStats,
    Ready,
    Runner,
    RunnerSpec,
    SequenceOutput,
    StepOutputs,
    StepResult,
    origin_of,
)
from octavo_engine.scheduler import Scheduler


class EngineCore:
    """Serves requests on one runner. Single-threaded: every method is called from the loop's own thread.

    ``step_started`` (in ``clock`` seconds, None between steps) and ``steps`` may be read from other threads:
    by them a watcher tells a hung step from an idle loop.
    """

    def __init__(
        self, config: EngineConfig, runner: Runner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.steps = 0
        self.step_started: float | None = None
        self._runner = runner
        self._clock = clock
        self._launched: deque[tuple[int, int, float]] = deque()  # decodes, tokens of prompts, launched at
        self._collected_at = 0.0
        self._steps_in_flight = 1
        self._refused: list[SequenceOutput] = []
        self._ended: dict[int, int] = {}  # client -> its last incarnation that is gone

    def start(self) -> Ready:
        """Load the model, size and allocate the KV cache. Errors: ConfigError, ModelError, OutOfMemory."""
        began = self._clock()
        spec = self._runner.load()
        self._steps_in_flight = _steps_in_flight(self.config, spec)
        num_blocks, num_host_blocks = self._runner.profile_blocks()
        max_model_len = _servable_length(self.config, spec, num_blocks)
        self._runner.allocate(num_blocks, num_host_blocks)
        self._scheduler = Scheduler(
            self.config,
            num_blocks=num_blocks,
            num_host_blocks=num_host_blocks,
            max_model_len=max_model_len,
            vocab_size=spec.vocab_size,
            eos_token_ids=spec.eos_token_ids,
        )
        return Ready(
            max_model_len=max_model_len,
            vocab_size=spec.vocab_size,
            num_blocks=num_blocks,
            num_host_blocks=num_host_blocks,
            block_size=self.config.cache.block_size,
            eos_token_ids=spec.eos_token_ids,
            load_seconds=self._clock() - began,
        )

    def add(self, request: AddRequest) -> None:
        """Queue a request. One that is refused is not raised: its error is among the next step's outputs."""
        if self._is_gone(request.request_id):
            return
        try:
            self._scheduler.add(request)
        except RequestError as error:
            self._refused += [
                SequenceOutput(
                    request.request_id,
                    index,
                    [],
                    finish_reason="error",
                    error=str(error),
                    error_status=error.status,
                )
                for index in range(max(1, request.params.n))
            ]

    def abort(self, request_ids: Iterable[str], sequences: Iterable[tuple[str, int]] = ()) -> None:
        """Forget requests, or single sequences (request id, index) of them, whatever they are doing.

        Their blocks are free at once; nothing more is reported of them. Unknown ids are ignored.
        """
        for request_id in request_ids:
            self._scheduler.abort(request_id)
        for request_id, index in sequences:
            self._scheduler.abort(request_id, index)

    def abort_client(self, client: int, incarnation: int) -> None:
        """Forget every request of an API process that is gone, and those to come that it had sent before."""
        self._ended[client] = incarnation
        self.abort([name for name in self._scheduler.batch.requests if self._is_gone(name)])

    def has_work(self) -> bool:
        """Whether :meth:`step` has something to do; otherwise the loop may sleep until a request comes."""
        return bool(self._refused) or bool(self._launched) or self._scheduler.has_work()

    def step(self) -> StepOutputs:
        """One round of the loop; its outputs may be empty while the first steps are under way.

        Errors: whatever the runner raises, after which this core cannot go on.
        """
        self.step_started = self._clock()
        outputs, self._refused = self._refused, []
        step = self._scheduler.schedule()
        if step is not None:
            self._runner.launch(step)
            self._launched.append((*self._scheduler.shape, self._clock()))
        if self._launched and (step is None or len(self._launched) >= self._steps_in_flight):
            outputs += self._scheduler.update(self._collect())
            self.steps += 1
        self.step_started = None
        return StepOutputs(outputs, self.stats)

    @property
    def stats(self) -> EngineStats:
        return self._scheduler.stats(self.steps)

    def check_integrity(self) -> None:
        """For tests: raise AssertionError when the scheduler's and the block pool's books disagree."""
        self._scheduler.check_integrity()

    def shutdown(self) -> None:
        """Wait for what was launched and let the runner go."""
        while self._launched:
            self._collect()
        self._runner.shutdown()

    def _is_gone(self, request_id: str) -> bool:
        """Whether the API process that asked has ended."""
        client, incarnation = origin_of(request_id)
        return incarnation <= self._ended.get(client, -1)

    def _collect(self) -> StepResult:
        """The oldest step's result; the scheduler learns what the step took."""
        result = self._runner.collect()
        decodes, prompt_tokens, launched_at = self._launched.popleft()
        began, self._collected_at = max(launched_at, self._collected_at), self._clock()
        self._scheduler.pace.note(decodes, prompt_tokens, self._collected_at - began)
        return result


def _steps_in_flight(config: EngineConfig, spec: RunnerSpec) -> int:
    """As many as were asked for, or as the runner likes."""
    asked = config.scheduler.steps_in_flight
    if asked is not None and asked < 1:
        raise ConfigError(f"steps_in_flight is {asked}; it must be 1 or more.")
    return spec.steps_in_flight if asked is None else asked


def _servable_length(config: EngineConfig, spec: RunnerSpec, num_blocks: int) -> int:
    """The model's length limit in tokens, lowered to what the KV cache holds unless it was asked for."""
    capacity = num_blocks * config.cache.block_size
    if config.model.max_model_len is not None and spec.max_model_len > capacity:
        raise OutOfMemory(
            f"The KV cache holds {capacity} tokens, fewer than the {spec.max_model_len} that --max-model-len"
            f" asks for; give it more memory or lower --max-model-len to {capacity} or less."
        )
    if capacity < 2:
        raise OutOfMemory(f"The KV cache holds {capacity} tokens; give it more memory.")
    return min(spec.max_model_len, capacity)
