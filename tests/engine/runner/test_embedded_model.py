"""The embedded model, SmolLM2-135M-Instruct: its text is English, and its logits are transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.runner.driver import GREEDY, Driver, loaded_runner
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from octavo_engine.config import EMBEDDED_MODEL
from octavo_engine.model_source import resolve
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.tokenizer import Tokenizer, load_tokenizer

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(EMBEDDED_MODEL)


def transformers_model(path: Path) -> LlamaForCausalLM:
    """What ``from_pretrained(gguf_file=...)`` does, without the package accelerate."""
    config = LlamaConfig(**load_gguf_checkpoint(path, return_tensors=False)["config"])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model.eval()


def runner_of(dtype: str) -> ModelRunner:
    return loaded_runner(EMBEDDED_MODEL, dtype=dtype, block_size=16)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_the_greedy_answer_is_sensible_and_ends_properly(dtype: str, tokenizer: Tokenizer) -> None:
    driver = Driver(runner_of(dtype), block_size=16)
    (seq,) = driver.generate([tokenizer.encode(QUESTION)], GREEDY, count=8, chunk=10)
    assert tokenizer.decode(seq.output, skip_special_tokens=False).startswith(
        "The capital of France is Paris.<|im_end|>"
    )


def test_float32_logits_agree_with_transformers_reading_the_same_file(tokenizer: Tokenizer) -> None:
    """The 50 best tokens' log probabilities at each position, within 0.001."""
    files = resolve(EMBEDDED_MODEL)
    assert files.gguf is not None
    tokens = tokenizer.encode(QUESTION)
    driver = Driver(runner_of("float32"), block_size=16)
    params = SamplingParams(temperature=0, prompt_logprobs=50)
    (seq,) = driver.generate([tokens], params, count=1, chunk=7)
    with torch.inference_mode():
        expected = transformers_model(files.gguf)(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()
    assert len(seq.prompt_logprobs) == len(tokens) - 1
    for found, row in zip(seq.prompt_logprobs, expected, strict=False):
        np.testing.assert_allclose(found.logprobs, row[found.token_ids], atol=1e-3, rtol=0)
