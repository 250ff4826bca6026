"""The engine's fake runner at an accelerator's pace: mounted into engine pods, which choose it by `--runner`.

Its tokens depend on nothing but the tokens before them, and it checks the KV cache that it is told to use.
"""

import socket
import threading
import time
from collections.abc import Callable

from octavo_engine.config import EngineConfig
from octavo_engine.errors import EngineError
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import RunnerSpec, StepInput, StepResult

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


class PacedGroup(PacedRunner):
    """Waits for the group's other pods where Ray's head would, and is lost with the first of them.

    They run `ray start`, whose place `ray/scripts/scripts.py` takes: a connection that says who it is.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._others = config.parallel.world_size - 1
        self._head = socket.create_server(("", config.parallel.ray_port))
        self._joined = threading.Semaphore(0)
        self._tell: Callable[[EngineError], None] = lambda error: None

    def on_failure(self, tell: Callable[[EngineError], None]) -> None:
        """Whom to tell of a lost pod."""
        self._tell = tell

    def load(self) -> RunnerSpec:
        """Ready when all are there."""
        threading.Thread(target=self._admit, daemon=True).start()
        for _ in range(self._others):
            self._joined.acquire()
        return super().load()

    def _admit(self) -> None:
        while True:
            connection, _ = self._head.accept()
            threading.Thread(target=self._stay, args=(connection,), daemon=True).start()

    def _stay(self, connection: socket.socket) -> None:
        """Until it is closed; one that never says who it is has only looked whether somebody listens."""
        with connection:
            name = connection.recv(256).decode()
            if name:
                self._joined.release()
                connection.recv(1)
                self._tell(EngineError(f"The engine ended because the rank on {name} was lost."))
