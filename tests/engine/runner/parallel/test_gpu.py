"""Log probabilities of two GPUs, with NCCL and graphs, against those of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.runner.parallel.gpu_answers import VOCAB
from tests.engine.runner.tiny_models import save

ROOT = Path(__file__).parents[4]
TOLERANCE = 5e-3  # of float32 products, which GPUs may round to TF32

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]


def answers(folder: Path, tensor: int, pipeline: int) -> tuple[list[list[int]], np.ndarray]:  # type: ignore[type-arg]
    """By a process of its own: NCCL is not to be left and joined again within one."""
    command = [sys.executable, "-m", "tests.engine.runner.parallel.gpu_answers", str(folder)]
    done = subprocess.run(
        [*command, str(tensor), str(pipeline)], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=110
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["tokens"], np.array(found["logprobs"]).reshape(-1, VOCAB)


@pytest.mark.parametrize("family", ["llama3", "qwen3-windowed"])
def test_two_gpus_agree_with_one(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path)
    tokens, logprobs = answers(folder, 1, 1)
    for tensor, pipeline in [(2, 1), (1, 2)]:
        found_tokens, found = answers(folder, tensor, pipeline)
        assert found_tokens == tokens
        np.testing.assert_allclose(found, logprobs, atol=TOLERANCE, rtol=0)
