"""Products in FP8 over several ranks: scales are split with the weights they belong to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.runner.parallel.test_logits import answers, configuration
from tests.engine.runner.parallel.warm_ranks import WarmLauncher, WarmRanks
from tests.engine.runner.tiny_models import save

from octavo_engine.config import EngineConfig, ParallelConfig
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.runner.parallel.runner import ParallelRunner


def quantized(folder: Path, parallel: ParallelConfig) -> EngineConfig:
    plain = configuration(folder, parallel)
    model = msgspec.structs.replace(plain.model, quantization="fp8")
    return msgspec.structs.replace(plain, model=model)


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_several_ranks_in_fp8_are_as_near_as_one(
    warm_ranks: WarmRanks, tmp_path: Path, tensor: int, pipeline: int
) -> None:
    """A split row is quantized by a scale of its own: rounding differs, and is no coarser."""
    folder = save("llama3", tmp_path)
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline, start_timeout=60)
    launcher = WarmLauncher(warm_ranks, parallel.world_size)
    several = prompt_logprobs(ParallelRunner(quantized(folder, parallel), launcher))
    one = prompt_logprobs(ModelRunner(quantized(folder, ParallelConfig())))
    exact = prompt_logprobs(ModelRunner(configuration(folder, ParallelConfig())))
    assert np.abs(several - exact).mean() <= 1.3 * np.abs(one - exact).mean()


def prompt_logprobs(runner: ModelRunner | ParallelRunner) -> NDArray[np.float64]:
    """Of the first prompt, whose tokens are given."""
    runner.load()
    runner.allocate(64, 0)
    _, found = answers(runner)
    runner.shutdown()
    return found[:12]
