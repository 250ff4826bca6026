"""The embedded model, SmolLM2-135M-Instruct: its text is English, and its logits are transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.engine.runner.driver import GREEDY, Driver, loaded_runner
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from octavo_engine.config import EMBEDDED_MODEL
from octavo_engine.model_source import resolve
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    files = resolve(EMBEDDED_MODEL)
    assert files.gguf is not None
    return AutoTokenizer.from_pretrained(files.folder, gguf_file=files.gguf.name)


def runner_of(dtype: str) -> ModelRunner:
    return loaded_runner(EMBEDDED_MODEL, dtype=dtype, block_size=16)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_the_greedy_answer_is_sensible_and_ends_properly(dtype: str, tokenizer: Tokenizer) -> None:
    driver = Driver(runner_of(dtype), block_size=16)
    (seq,) = driver.generate([tokenizer.encode(QUESTION)], GREEDY, count=8, chunk=10)
    assert tokenizer.decode(seq.output).startswith("The capital of France is Paris.<|im_end|>")


def test_float32_logits_agree_with_transformers_reading_the_same_file(tokenizer: Tokenizer) -> None:
    """The 50 best tokens' log probabilities at each position, within 0.001."""
    files = resolve(EMBEDDED_MODEL)
    assert files.gguf is not None
    tokens = tokenizer.encode(QUESTION)
    driver = Driver(runner_of("float32"), block_size=16)
    params = SamplingParams(temperature=0, prompt_logprobs=50)
    (seq,) = driver.generate([tokens], params, count=1, chunk=7)
    model = AutoModelForCausalLM.from_pretrained(
        files.folder, gguf_file=files.gguf.name, dtype=torch.float32
    )
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()
    assert len(seq.prompt_logprobs) == len(tokens) - 1
    for found, row in zip(seq.prompt_logprobs, expected, strict=False):
        np.testing.assert_allclose(found.logprobs, row[found.token_ids], atol=1e-3, rtol=0)
