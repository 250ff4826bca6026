"""Log probabilities of the paged path against transformers' over the whole sequence at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.runner.driver import Driver, distributions, loaded_runner
from tests.engine.runner.tiny_models import FAMILIES, VOCAB, prompt, reference_logprobs, save

from octavo_engine.sampling_params import SamplingParams

EVERYTHING = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
F32_TOLERANCE = 2e-4  # largest difference of any log probability


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("chunk", [5, 64], ids=["chunked prefill", "whole prompts"])
def test_float32_agrees_with_transformers_in_a_mixed_batch(folder: Path, chunk: int) -> None:
    driver = Driver(loaded_runner(folder))
    seqs = driver.generate([prompt(n, seed=n) for n in (23, 3, 14)], EVERYTHING, count=6, chunk=chunk)
    for seq in seqs:
        expected = reference_logprobs(folder, seq.tokens, torch.float32)
        found = distributions(seq, VOCAB)
        np.testing.assert_allclose(found, expected[: len(found)], atol=F32_TOLERANCE, rtol=0)


def test_prefill_chunks_and_decodes_share_a_step(folder: Path) -> None:
    driver = Driver(loaded_runner(folder))
    early, late = driver.add(prompt(11, seed=1), EVERYTHING), driver.add(prompt(26, seed=2), EVERYTHING)
    driver.step((early, 11))
    for count in (7, 1, 10, 8):
        driver.step((early, 1), (late, count))
    driver.step((early, 1), (late, 1))
    for seq in (early, late):
        expected = reference_logprobs(folder, seq.tokens, torch.float32)
        found = distributions(seq, VOCAB)
        np.testing.assert_allclose(found, expected[: len(found)], atol=F32_TOLERANCE, rtol=0)


def test_bfloat16_is_as_near_to_float32_as_transformers_own_bfloat16(folder: Path) -> None:
    """Measured by the mean absolute difference of log probabilities; at most 1.5 times transformers' own."""
    driver = Driver(loaded_runner(folder, dtype="bfloat16"))
    (seq,) = driver.generate([prompt(30, seed=5)], EVERYTHING, count=1, chunk=8)
    found = distributions(seq, VOCAB)
    exact = reference_logprobs(folder, seq.tokens[:30], torch.float32)
    theirs = reference_logprobs(folder, seq.tokens[:30], torch.bfloat16)
    assert np.abs(found - exact).mean() <= 1.5 * np.abs(theirs - exact).mean()
