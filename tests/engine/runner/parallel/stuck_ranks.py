"""Ranks that can be made to hang in a step, on this node's CPU: as long as a file named by the process's id
lies in ``$OCTAVO_TEST_STUCK``, the process's steps go round in a loop; while one named "slow" does, every
half of a layer takes a second on every rank."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from torch import Tensor

from octavo_engine.config import EngineConfig
from octavo_engine.messages import Runner, StepInput, StepResult
from octavo_engine.runner.forward import StepExecutor
from octavo_engine.runner.parallel import worker
from octavo_engine.runner.parallel.group import PulsingGroup
from octavo_engine.runner.parallel.launcher import LocalLauncher
from octavo_engine.runner.parallel.runner import ParallelRunner

FOLDER = "OCTAVO_TEST_STUCK"
SLOW = "slow"


class StuckLauncher(LocalLauncher):
    worker = __name__


def stuck_runner(config: EngineConfig) -> Runner:
    make_steps_stick()
    return ParallelRunner(config, StuckLauncher(config.parallel.world_size))


def make_steps_stick() -> None:
    run, reduce = StepExecutor.run, PulsingGroup.all_reduce

    def sticking(executor: StepExecutor, step: StepInput) -> StepResult:
        while Path(os.environ[FOLDER], str(os.getpid())).exists():
            pass
        return run(executor, step)

    def slow(group: PulsingGroup, x: Tensor) -> Tensor:
        if Path(os.environ[FOLDER], SLOW).exists():
            time.sleep(1.0)
        return reduce(group, x)

    StepExecutor.run = sticking  # type: ignore[method-assign]
    PulsingGroup.all_reduce = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    make_steps_stick()
    sys.exit(worker.main())
