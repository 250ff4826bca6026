"""The engine's fake runner at an accelerator's pace: mounted into engine pods, which choose it by `--runner`.

Its tokens depend on nothing but the tokens before them, and it checks the KV cache that it is told to use.
"""

import time

from octavo_engine.config import EngineConfig
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import StepInput, StepResult

STEP_SECONDS = 0.25
VOCABULARY = 49152  # of the embedded model, whose tokenizer is used


class PacedRunner(FakeRunner):
    """A step takes `STEP_SECONDS`, and hardly any of the CPU."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, vocab_size=VOCABULARY, eos_token_ids=())
        self._due = 0.0

    def launch(self, step: StepInput) -> None:
        """Begin a step."""
        self._due = time.monotonic() + STEP_SECONDS
        super().launch(step)

    def collect(self) -> StepResult:
        """Its tokens, once it would be over."""
        time.sleep(max(0.0, self._due - time.monotonic()))
        return super().collect()
