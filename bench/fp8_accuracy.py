"""What FP8 costs in accuracy on the embedded model: its own float32 answers, read again by each variant.

Usage: PYTHONPATH=engine python bench/fp8_accuracy.py [--tokens 64]. Runs on the CPU, with the numbers that a
GPU computes with. The float32 model answers questions greedily; every variant then computes the logits at
each place of these answers, from a KV cache of its own. Writes bench/results/engine-fp8.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from octavo_engine.config import (
    EMBEDDED_MODEL,
    CacheConfig,
    CacheDtype,
    Dtype,
    EngineConfig,
    ModelConfig,
    QuantizationMethod,
)
from octavo_engine.llm import LLM
from octavo_engine.messages import SequenceStart, SequenceStep
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

BLOCKS, BLOCK_SIZE = 256, 16
QUESTIONS = (
    "What is the capital of France?",
    "Explain in a few sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "List three differences between cats and dogs.",
    "Tell a short story about a lighthouse keeper.",
    "How does a refrigerator keep food cold?",
    "Translate 'Good morning, my friend' into Spanish and French.",
    "A train goes 60 km in 45 minutes. What is its speed in km/h?",
    "Summarize the water cycle for a child.",
    "Give advice to somebody who learns to play the piano.",
)


@dataclass(frozen=True)
class Variant:
    name: str
    quantization: QuantizationMethod | None = None
    cache: CacheDtype = "auto"
    dtype: Dtype = "float32"


VARIANTS = (
    Variant("bf16", dtype="bfloat16"),
    Variant("fp8_weights", "fp8"),
    Variant("fp8_per_tensor_weights", "fp8_per_tensor"),
    Variant("fp8_kv_cache", cache="fp8"),
    Variant("fp8_both", "fp8", "fp8"),
    Variant("fp8_both_bf16", "fp8", "fp8", "bfloat16"),
)


class Reader:
    """One variant of the model, which computes the logits of whole sequences."""

    def __init__(self, variant: Variant) -> None:
        model = ModelConfig(
            source=EMBEDDED_MODEL, dtype=variant.dtype, device="cpu", quantization=variant.quantization
        )
        cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=BLOCKS, dtype=variant.cache)
        runner = ModelRunner(EngineConfig(model=model, cache=cache))
        runner.load()
        self._executor = runner._executor(BLOCKS, 0)

    @torch.inference_mode()
    def logits(self, texts: list[tuple[list[int], int]]) -> Tensor:
        """[places, vocab] float32 of what follows each token of the answers but the last, in one pass."""
        executor, steps, block = self._executor, [], 0
        for seq_id, (tokens, _) in enumerate(texts):
            blocks = list(range(block, block := block - (-len(tokens) // BLOCK_SIZE)))
            executor.rows.start(SequenceStart(seq_id, tokens, len(tokens), SamplingParams(), blocks, 0))
            steps.append(SequenceStep(seq_id, 0, len(tokens), False, []))
        inputs = executor.inputs.build(executor.rows, steps)
        hidden = executor.model(inputs, executor.cache.layers).split([len(tokens) for tokens, _ in texts])
        wanted = [rows[begin - 1 : -1] for rows, (_, begin) in zip(hidden, texts, strict=True)]
        return executor.model.logits(torch.cat(wanted))


def answers(most: int) -> list[tuple[list[int], int]]:
    """(tokens of question and answer, length of the question), greedily in float32."""
    llm = LLM(EMBEDDED_MODEL, dtype="float32", max_model_len=1024)
    questions = [[{"role": "user", "content": question}] for question in QUESTIONS]
    found = llm.chat(questions, SamplingParams(temperature=0.0, max_tokens=most), use_tqdm=False)
    llm.shutdown()
    return [
        (each.prompt_token_ids + list(each.outputs[0].token_ids), len(each.prompt_token_ids))
        for each in found
    ]


@dataclass(frozen=True)
class Comparison:
    """``logits`` and ``exact`` [places, vocab]: a variant's and float32's after the same tokens."""

    logits: Tensor
    exact: Tensor

    @property
    def figures(self) -> dict[str, float]:
        centred = self.exact - self.exact.mean(dim=-1, keepdim=True)
        error = self.logits - self.logits.mean(dim=-1, keepdim=True) - centred
        ours, theirs = self.logits.log_softmax(dim=-1), self.exact.log_softmax(dim=-1)
        same = self.logits.argmax(dim=-1) == self.exact.argmax(dim=-1)
        return {
            "logit_error": float(error.norm() / centred.norm()),
            "kl_divergence": float((theirs.exp() * (theirs - ours)).sum(dim=-1).mean()),
            "greedy_agreement": float(same.float().mean()),
        }


MEANINGS = {
    "logit_error": ("ratio", "root mean square of the error over that of the logits"),
    "kl_divergence": ("nats", "mean divergence of the distributions of the next token"),
    "greedy_agreement": ("ratio", "places where the likeliest token is the same"),
}


def measure(most: int) -> list[dict[str, object]]:
    plain = Reader(Variant("float32"))
    texts = answers(most)
    exact = plain.logits(texts)
    common = (
        f"SmolLM2-135M-Instruct against itself in float32; {len(exact)} places in its greedy answers to "
        f"{len(texts)} questions; CPU, torch {torch.__version__}"
    )
    rows: list[dict[str, object]] = []
    for variant in VARIANTS:
        reader = Reader(variant)
        for figure, value in Comparison(reader.logits(texts), exact).figures.items():
            unit, what = MEANINGS[figure]
            name = f"{figure}.{variant.name}"
            rows.append(
                {"figure": name, "value": round(value, 5), "unit": unit, "conditions": f"{what}; {common}"}
            )
            print(f"{name:40} {value:9.5f} {unit}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    rows = measure(parser.parse_args().tokens)
    target = Path(__file__).resolve().parent / "results" / "engine-fp8.json"
    target.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
