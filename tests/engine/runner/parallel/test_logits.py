"""Log probabilities of a model over several ranks, with gloo on the CPU, against those of one rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.runner.driver import Driver, distributions, loaded_runner
from tests.engine.runner.parallel.warm_ranks import WarmLauncher, WarmRanks
from tests.engine.runner.tiny_models import FAMILIES, VOCAB, prompt, save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from octavo_engine.messages import Runner
from octavo_engine.runner.parallel.runner import ParallelRunner
from octavo_engine.sampling_params import SamplingParams

EVERYTHING = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
TOLERANCE = 2e-4  # largest difference of any log probability
EIGHT_HEADS = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
DIVISIBLE = {"smollm2": EIGHT_HEADS, "qwen2-windowed": EIGHT_HEADS}  # by 4, which their own shapes are not


def configuration(folder: Path, parallel: ParallelConfig) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(source=str(folder), dtype="float32", device="cpu"),
        cache=CacheConfig(block_size=4, num_blocks=64),
        parallel=parallel,
    )


def answers(runner: Runner) -> tuple[list[list[int]], NDArray[np.float64]]:
    driver = Driver(runner)
    seqs = driver.generate([prompt(n, seed=n) for n in (13, 3)], EVERYTHING, count=4, chunk=5)
    return [seq.output for seq in seqs], np.concatenate([distributions(seq, VOCAB) for seq in seqs])


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = DIVISIBLE.get(request.param, {})
    return save(request.param, tmp_path_factory.mktemp(request.param), **changes)


@pytest.mark.parametrize("tensor, pipeline, far", [(2, 1, ()), (4, 1, (3,)), (1, 2, ()), (2, 2, (2, 3))])
def test_several_ranks_agree_with_one(
    folder: Path, warm_ranks: WarmRanks, tensor: int, pipeline: int, far: tuple[int, ...]
) -> None:
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline, start_timeout=60)
    launcher = WarmLauncher(warm_ranks, parallel.world_size, far)
    runner = ParallelRunner(configuration(folder, parallel), launcher)
    runner.load()
    runner.allocate(*runner.profile_blocks())
    tokens, logprobs = answers(runner)
    runner.shutdown()
    expected_tokens, expected = answers(loaded_runner(folder))
    assert tokens == expected_tokens
    np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE, rtol=0)
