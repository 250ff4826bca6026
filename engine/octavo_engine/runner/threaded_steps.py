"""Steps on a CPU: one after another on a thread of their own, while the engine schedules the next."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from octavo_engine.messages import StepInput, StepResult
from octavo_engine.runner.forward import StepExecutor
from octavo_engine.runner.parallel.pulse import Pulse


class Steps(Protocol):
    """How launched steps are carried out, in their order."""

    def launch(self, step: StepInput) -> None: ...
    def ready(self) -> bool:
        """Whether the oldest launched step can be collected without waiting."""
        ...

    def collect(self) -> StepResult: ...
    def shutdown(self) -> None: ...


class ThreadedSteps:
    """Torch spreads each operator of a step over all cores."""

    def __init__(self, executor: StepExecutor, pulse: Pulse) -> None:
        self.executor, self._pulse = executor, pulse
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="octavo-step")
        self._launched: deque[Future[StepResult]] = deque()

    def launch(self, step: StepInput) -> None:
        self._launched.append(self._thread.submit(self._run, step))

    def _run(self, step: StepInput) -> StepResult:
        with self._pulse.computing():
            return self.executor.run(step)

    def ready(self) -> bool:
        return self._launched[0].done()

    def collect(self) -> StepResult:
        return self._launched.popleft().result()

    def shutdown(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
