"""A fake runner whose steps wait while a file exists: tests decide how long a step takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from octavo_engine.errors import OutOfMemory
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import RunnerSpec, StepInput


class GatedRunner(FakeRunner):
    def launch(self, step: StepInput) -> None:
        gate = Path(os.environ["OCTAVO_TEST_GATE"])
        while gate.exists():
            time.sleep(0.002)
        super().launch(step)


class UnloadableRunner(FakeRunner):
    def load(self) -> RunnerSpec:
        raise OutOfMemory("The weights need 80 GiB and 16 are free; choose a smaller model.")


class FaultyRunner(FakeRunner):
    def launch(self, step: StepInput) -> None:
        raise ZeroDivisionError("a fault of the runner's own")
