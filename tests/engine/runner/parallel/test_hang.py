"""A rank that hangs, stopped or stuck in a loop, ends its whole engine, which says whose fault it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.engine.runner.parallel.stuck_ranks import FOLDER, SLOW, StuckLauncher, stuck_runner
from tests.engine.runner.parallel.test_group import PROMPTS, configuration
from tests.engine.runner.tiny_models import save

from octavo_engine.config import ParallelConfig
from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError
from octavo_engine.messages import AddRequest
from octavo_engine.runner.forward import StepExecutor
from octavo_engine.runner.parallel.group import PulsingGroup
from octavo_engine.runner.parallel.runner import ParallelRunner
from octavo_engine.sampling_params import SamplingParams

LIMIT = 4.0  # seconds; the default is 20
SHAPES = {"tensor": (2, 1), "pipeline": (1, 2), "both": (2, 2)}


class Ranks:
    """A started engine, rank 0 in this process."""

    def __init__(self, model: Path, stuck: Path, shape: str) -> None:
        tensor, pipeline = SHAPES[shape]
        parallel = ParallelConfig(
            tensor=tensor, pipeline=pipeline, start_timeout=120, collective_timeout=LIMIT
        )
        config = configuration(model, parallel)
        runner = stuck_runner(config)
        assert isinstance(runner, ParallelRunner)
        runner.on_failure(self._tell)
        assert isinstance(runner._launcher, StuckLauncher)
        self._processes = runner._launcher._processes
        self._stuck, self._files = stuck, list[Path]()
        self.told, self.failure = threading.Event(), ""
        self.core = EngineCore(config, runner)
        self.core.start()
        self.ask(PROMPTS[0], max_tokens=33)
        self.core.step()

    def ask(self, tokens: list[int], max_tokens: int) -> None:
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        self.core.add(AddRequest(str(len(tokens)), tokens, params, 0.0))

    def stop(self, rank: int) -> None:
        os.kill(self._pid(rank), signal.SIGSTOP)

    def stick(self, rank: int) -> None:
        self._files.append(self._stuck / str(self._pid(rank)))
        self._files[-1].touch()

    def _pid(self, rank: int) -> int:
        return self._processes[rank].pid if rank else os.getpid()

    def _tell(self, error: EngineError) -> None:
        self.failure = str(error)
        self.told.set()
        for file in self._files:  # a server's process would end now
            file.unlink()

    def have_told(self) -> bool:
        """Within 20 seconds; like the watch's clock these stand still while the machine does."""
        return any(self.told.wait(0.1) for _ in range(200))

    def run_on(self) -> None:
        while self.core.has_work():
            self.core.step()

    def close(self) -> None:
        ranks = [psutil.Process(process.pid) for process in self._processes.values()]
        self.core._runner.shutdown()
        _, alive = psutil.wait_procs(ranks, timeout=10)
        assert not alive


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Ranks]]:
    started: list[Ranks] = []
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(StepExecutor, "run", StepExecutor.run)  # to be as they were afterwards
    monkeypatch.setattr(PulsingGroup, "all_reduce", PulsingGroup.all_reduce)

    def begin(shape: str) -> Ranks:
        started.append(Ranks(save("llama3", tmp_path), tmp_path, shape))
        return started[-1]

    yield begin
    for ranks in started:
        ranks.close()


@pytest.mark.parametrize(
    ("shape", "rank"),
    [("tensor", 0), ("tensor", 1), ("pipeline", 0), ("pipeline", 1), ("both", 1), ("both", 3)],
)
def test_a_rank_stuck_in_a_step_is_named(start: Callable[[str], Ranks], shape: str, rank: int) -> None:
    ranks = start(shape)
    ranks.stick(rank)
    with pytest.raises(
        EngineError, match=rf"because rank {rank} .*has not moved on in step \d+ for \d seconds"
    ):
        ranks.run_on()
    assert ranks.have_told()


@pytest.mark.parametrize(("shape", "rank"), [("tensor", 1), ("pipeline", 1), ("both", 2)])
def test_a_rank_stopped_while_steps_run_is_named(
    start: Callable[[str], Ranks], shape: str, rank: int
) -> None:
    ranks = start(shape)
    ranks.stop(rank)
    with pytest.raises(EngineError, match=rf"because rank {rank} .*has not been heard of for \d seconds"):
        ranks.run_on()
    assert ranks.have_told()


def test_a_rank_stopped_while_nothing_runs_is_named(start: Callable[[str], Ranks]) -> None:
    ranks = start("pipeline")
    ranks.run_on()
    ranks.stop(1)
    assert ranks.have_told()
    assert "because rank 1 (stage 1, shard 0) on" in ranks.failure


@pytest.mark.parametrize("shape", ["tensor", "pipeline"])
def test_a_long_step_that_moves_on_is_no_hang(
    start: Callable[[str], Ranks], tmp_path: Path, shape: str
) -> None:
    ranks = start(shape)
    ranks.run_on()
    (tmp_path / SLOW).touch()
    ranks.ask([7, 8, 9], max_tokens=1)
    began = time.monotonic()
    ranks.run_on()
    assert time.monotonic() - began > LIMIT
    assert not ranks.told.is_set()
