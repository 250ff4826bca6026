"""A runner that computes nothing and takes its time: what is measured with it is everything around a model.

``OCTAVO_STEP_MS`` is the length of a step, two of which are in flight as on a GPU.
"""

from __future__ import annotations

import os
import time
from collections import deque

from octavo_engine.config import EngineConfig
from octavo_engine.messages import RunnerSpec, SampledToken, StepInput, StepResult

VOCAB = 128256


class PacedRunner:
    """Implements :class:`octavo_engine.messages.Runner`."""

    def __init__(self, config: EngineConfig) -> None:
        self._seconds = float(os.environ.get("OCTAVO_STEP_MS", "10")) / 1e3
        self._results: deque[tuple[float, StepResult]] = deque()
        self._free_at = 0.0

    def load(self) -> RunnerSpec:
        return RunnerSpec(VOCAB, 8192, [128001], 1 << 20, steps_in_flight=2)

    def profile_blocks(self) -> tuple[int, int]:
        return 20_000, 0

    def allocate(self, num_blocks: int, num_host_blocks: int) -> None:
        pass

    def launch(self, step: StepInput) -> None:
        self._free_at = max(self._free_at, time.perf_counter()) + self._seconds
        tokens = [
            SampledToken(s.seq_id, (s.seq_id * 7919 + step.step_id * 104729) % VOCAB)
            for s in step.sequences
            if s.sample
        ]
        self._results.append((self._free_at, StepResult(step.step_id, tokens)))

    def collect(self) -> StepResult:
        due, result = self._results.popleft()
        time.sleep(max(0.0, due - time.perf_counter()))
        return result

    def shutdown(self) -> None:
        self._results.clear()
