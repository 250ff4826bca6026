"""The engine over several ranks: the same answers as on one, and one end for all."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.engine.runner.parallel.warm_ranks import WarmLauncher, WarmRanks
from tests.engine.runner.tiny_models import prompt, save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.errors import ConfigError, EngineError
from octavo_engine.messages import AddRequest, Runner
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.runner.parallel import watch
from octavo_engine.runner.parallel.launcher import LocalLauncher
from octavo_engine.runner.parallel.runner import ParallelRunner
from octavo_engine.runner.parallel.wire import ARRIVED, Done, Hello, WorkerSpec
from octavo_engine.runner.parallel.worker import Mail
from octavo_engine.sampling_params import SamplingParams

TWO = ParallelConfig(tensor=2, start_timeout=60)
STAGES = ParallelConfig(pipeline=3, start_timeout=60)
BOTH = ParallelConfig(tensor=2, pipeline=2, pipeline_layers=(1, 2), start_timeout=60)
SHARED = prompt(12, seed=1)
PROMPTS = [SHARED + prompt(n, seed=n) for n in (3, 9, 6)] + [prompt(14, seed=20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama3", tmp_path_factory.mktemp("llama3"))


def configuration(folder: Path, parallel: ParallelConfig, mode: str = "recompute") -> EngineConfig:
    """Blocks for two of the prompts' answers: the others are preempted."""
    return EngineConfig(
        model=ModelConfig(source=str(folder), dtype="float32", device="cpu", max_model_len=48),
        cache=CacheConfig(block_size=4, num_blocks=16, swap_space_bytes=1 << 20),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=7, preemption_mode=mode),  # type: ignore[arg-type]
        parallel=parallel,
    )


def answers(core: EngineCore) -> dict[str, list[int]]:
    """Greedy and seeded ones; one is aborted on its way."""
    greedy = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    seeded = SamplingParams(temperature=1.0, seed=3, top_k=20, max_tokens=12, ignore_eos=True, n=2)
    found: dict[str, list[int]] = {}
    for i, tokens in enumerate(PROMPTS):
        core.add(AddRequest(str(i), tokens, seeded if i == 1 else greedy, 0.0))
    core.add(AddRequest("gone", PROMPTS[0], greedy, 0.0))
    while core.has_work():
        for output in core.step().outputs:
            assert output.error is None, output.error
            found.setdefault(f"{output.request_id}.{output.index}", []).extend(output.token_ids)
        if len(found.get("0.0", ())) > 3:
            core.abort(["gone"])
        core.check_integrity()
    return {name: tokens for name, tokens in found.items() if not name.startswith("gone")}


def started(config: EngineConfig, runner: Runner) -> EngineCore:
    core = EngineCore(config, runner)
    core.start()
    return core


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("parallel", [TWO, STAGES, BOTH], ids=["tensor 2", "pipeline 3", "both 2"])
def test_preemption_prefix_caching_chunks_and_aborts_change_no_answer(
    folder: Path, warm_ranks: WarmRanks, parallel: ParallelConfig, mode: str
) -> None:
    config = configuration(folder, parallel, mode)
    core = started(config, ParallelRunner(config, WarmLauncher(warm_ranks, parallel.world_size)))
    found = answers(core)
    assert core.stats.preemptions > 0
    assert core.stats.prefix_cache_hits > 0
    core.shutdown()
    alone = configuration(folder, ParallelConfig(), mode)
    assert found == answers(started(alone, ModelRunner(alone)))


class Group:
    """A group with a worker process of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self.launcher = LocalLauncher(config.parallel.world_size)
        self.runner = ParallelRunner(config, self.launcher)
        self.told = threading.Event()
        self.failures: list[EngineError] = []
        self.runner.on_failure(self._tell)

    def _tell(self, error: EngineError) -> None:
        self.failures.append(error)
        self.told.set()

    def pid(self, rank: int) -> int:
        return self.launcher._processes[rank].pid


@pytest.fixture
def group(folder: Path) -> Iterator[Group]:
    found = Group(configuration(folder, TWO))
    yield found
    found.runner.shutdown()


def test_a_killed_rank_ends_the_engine_with_its_name(group: Group, folder: Path) -> None:
    core = started(configuration(folder, TWO), group.runner)
    core.add(AddRequest("a", PROMPTS[0], SamplingParams(max_tokens=30, ignore_eos=True), 0.0))
    core.step()
    os.kill(group.pid(1), signal.SIGKILL)
    with pytest.raises(EngineError, match=r"because rank 1 on .* was killed \(SIGKILL\)"):
        while core.has_work():
            core.step()
    assert group.told.wait(20)
    assert "rank 1" in str(group.failures[0])


def test_a_rank_that_ends_while_nothing_runs_is_noticed(group: Group) -> None:
    group.runner.load()
    os.kill(group.pid(1), signal.SIGTERM)  # ignored: the core decides
    os.kill(group.pid(1), signal.SIGKILL)
    assert group.told.wait(20)


def test_a_rank_that_is_stopped_is_missed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    group.runner.load()
    monkeypatch.setattr(watch, "_SILENCE_SECONDS", 3.0)
    os.kill(group.pid(1), signal.SIGSTOP)
    assert group.told.wait(30)
    assert re.search(r"rank 1 on .* has not been heard of for \d+ seconds", str(group.failures[0]))


class NobodyLauncher(WarmLauncher):
    def start(self, specs: Iterable[WorkerSpec]) -> None:
        list(specs)


def test_a_rank_that_does_not_start_in_time_is_named(folder: Path, warm_ranks: WarmRanks) -> None:
    parallel = ParallelConfig(tensor=3, start_timeout=0.5)
    runner = ParallelRunner(configuration(folder, parallel), NobodyLauncher(warm_ranks, 3))
    with pytest.raises(EngineError, match=r"Rank 1, rank 2 have not started within 0 seconds"):
        runner.load()


class OneDeafLauncher(WarmLauncher):
    """Rank 1 comes to meet the others; rank 2 says hello, and hears nothing."""

    def start(self, specs: Iterable[WorkerSpec]) -> None:
        for spec in specs:
            mail = Mail(spec)
            mail.report(Hello(spec.rank, f"node-{spec.rank}"))
            if spec.rank == 1:
                mail.report(Done(1, ARRIVED))
            mail.close()


def test_a_rank_that_does_not_join_is_named_and_not_one_that_waited(
    folder: Path, warm_ranks: WarmRanks
) -> None:
    parallel = ParallelConfig(tensor=3, start_timeout=1)
    runner = ParallelRunner(configuration(folder, parallel), OneDeafLauncher(warm_ranks, 3))
    with pytest.raises(EngineError, match="Rank 2 on node-2 has not come to meet the others within 1 sec"):
        runner.load()


def test_sizes_that_do_not_divide_the_model_are_refused(folder: Path, warm_ranks: WarmRanks) -> None:
    config = configuration(folder, ParallelConfig(tensor=3))
    runner = ParallelRunner(config, WarmLauncher(warm_ranks, 3))
    with pytest.raises(ConfigError, match="--tensor-parallel-size 3 does not divide the 4 pieces"):
        runner.load()


def test_what_crosses_the_process_border_is_small(folder: Path) -> None:
    spec = WorkerSpec(config=configuration(folder, TWO), rank=1, device=1, neighbours=2)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=WorkerSpec) == spec
