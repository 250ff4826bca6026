"""Other models and lengths than the peer's table has: 0.6B, prompts of 100 to 4,000 tokens, mixed lengths.

Usage: PYTHONPATH=engine python bench/gpu_shapes.py [--runs 3] [--models qwen3-0.6b llama-8b]
       [--only batches lengths mixture] [--result NAME]
Weights are random. Figures go to bench/results/engine-CARD-shapes.json as they are known; those of other
models stay. ``--device cpu --models tiny`` tries it out.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu import Bench, Figure
from gpu_model import LLAMA_3_1_8B
from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

QWEN3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": QWEN3_0_6B,
    "llama-8b": LLAMA_3_1_8B,
    "tiny": {**QWEN3_0_6B, **_SMALL},
}


@dataclass(frozen=True)
class Plan:
    """How much of each is asked for."""

    batches: tuple[int, ...] = (1, 8, 32, 128, 256)
    lengths: tuple[int, ...] = (100, 500, 1000, 2000, 4000)
    output: int = 128
    long_output: int = 512  # so long that all decode at once when the last prompt is done
    prompt: int = 512
    prefill_tokens: int = 64_000
    mixture: int = 256


TRYING = Plan((1, 2), (100, 200), 4, 40, 20, 400, 6)


@dataclass
class Shapes:
    """One model's figures; ``plan`` says how large."""

    bench: Bench
    plan: Plan

    def batches(self) -> Iterator[Figure]:
        """TPOT by batch."""
        for batch in self.plan.batches:
            prompts = [self.bench.prompt(self.plan.prompt) for _ in range(batch)]
            found = self.bench.median(
                lambda prompts=prompts: self.bench.answer(prompts, self.plan.output).step_seconds
            )
            what = f"{batch} requests of {self.plan.prompt} tokens at once; steps in which all decode"
            yield f"tpot_ms.b{batch}", 1e3 * found, what

    def lengths(self) -> Iterator[Figure]:
        """By length of the prompts: time to the first token, prefill, decode of 32."""
        bench, output = self.bench, self.plan.long_output
        for length in self.plan.lengths:
            count = max(1, self.plan.prefill_tokens // length)
            one = bench.median(lambda n=length: bench.answer([bench.prompt(n)], 1).ttfts[0])
            many = bench.median(
                lambda n=length, count=count: bench.answer([bench.prompt(n) for _ in range(count)], 1).seconds
            )
            step = bench.median(
                lambda n=length: bench.answer([bench.prompt(n) for _ in range(32)], output).step_seconds
            )
            yield f"ttft_ms.{length}", 1e3 * one, f"one prompt of {length} tokens on an idle engine"
            yield (
                f"prefill_tok_s.{length}",
                count * length / many,
                f"{count} prompts of {length} tokens, one token out",
            )
            yield (
                f"tpot_ms.b32.{length}",
                1e3 * step,
                f"32 requests of {length} tokens; steps in which all decode",
            )

    def mixture(self) -> Iterator[Figure]:
        """Prompts of 100 to 4,000 tokens and answers of 16 to 256, all at once."""
        shortest, longest = self.plan.lengths[0], self.plan.lengths[-1]
        draw = random.Random(1)
        sizes = [
            (
                int(shortest * (longest / shortest) ** draw.random()),
                draw.randint(self.plan.output // 8 + 1, 2 * self.plan.output),
            )
            for _ in range(self.plan.mixture)
        ]
        seconds = self.bench.median(lambda: self._answer(sizes))
        what = (
            f"{len(sizes)} requests at once, prompts of {shortest} to {longest} tokens (log-uniform), "
            f"answers of {self.plan.output // 8 + 1} to {2 * self.plan.output}"
        )
        yield "mixture_output_tok_s", sum(answer for _, answer in sizes) / seconds, what
        yield "mixture_total_tok_s", sum(map(sum, sizes)) / seconds, f"{what}; prompts counted too"

    def _answer(self, sizes: list[tuple[int, int]]) -> float:
        core = self.bench.core
        for number, (prompt, answer) in enumerate(sizes):
            params = SamplingParams(temperature=1.0, max_tokens=answer, ignore_eos=True)
            name = f"mixture-{self.bench.served}-{number}"
            core.add(AddRequest(name, self.bench.prompt(prompt), params, 0.0))
        self.bench.served += len(sizes)
        return self._drain()

    def _drain(self) -> float:
        began = time.perf_counter()
        while self.bench.core.has_work():
            for output in self.bench.core.step().outputs:
                assert output.error is None, output.error
        return time.perf_counter() - began


@contextmanager
def engine(model: str, device: str) -> Iterator[EngineCore]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODELS[model]))
        config = EngineConfig(
            model=ModelConfig(
                source=folder,
                load_format="dummy",
                dtype="bfloat16",
                device=device,  # type: ignore[arg-type]
                max_model_len=8192,
            ),
            cache=CacheConfig(enable_prefix_caching=False),
            scheduler=SchedulerConfig(max_waiting=1 << 30),
        )
        core = EngineCore(config, ModelRunner(config))
        ready = core.start()
        print(f"{model}: {ready.num_blocks} blocks, loaded in {ready.load_seconds:.1f} s", flush=True)
        yield core
        core.shutdown()


class Results:
    """The card's file, written whenever a figure is known."""

    def __init__(self, name: str | None, card: str) -> None:
        kind = next((word for word in ("H100", "H200") if word in card), card.split(maxsplit=1)[0]).lower()
        self._file = Path(__file__).resolve().parent / "results" / f"{name or f'engine-{kind}-shapes'}.json"
        found = json.loads(self._file.read_text()) if self._file.exists() else []
        self._rows: dict[str, dict[str, object]] = {row["figure"]: row for row in found}

    def note(self, figure: str, value: float, conditions: str) -> None:
        unit = "ms" if "_ms" in figure else "tok/s"
        self._rows[figure] = {
            "figure": figure,
            "value": round(value, 3),
            "unit": unit,
            "conditions": conditions,
        }
        print(f"{figure:44} {value:12.3f} {unit}", flush=True)
        self._file.write_text(json.dumps(list(self._rows.values()), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["qwen3-0.6b", "llama-8b"], choices=MODELS)
    groups = ["batches", "lengths", "mixture"]
    parser.add_argument("--only", nargs="+", default=groups, choices=groups)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--result", default=None, help="default: engine-CARD-shapes")
    arguments = parser.parse_args()
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    results = Results(arguments.result, card)
    for model in arguments.models:
        with engine(model, arguments.device) as core:
            plan = TRYING if model == "tiny" else Plan()
            shapes = Shapes(Bench(core, arguments.runs), plan)
            for group in arguments.only:
                for figure, value, what in getattr(shapes, group)():
                    common = f"{card}, torch {torch.__version__}, {model}'s shape, random bf16 weights"
                    conditions = f"{what}; {common}, temperature 1, in process; median of {arguments.runs}"
                    results.note(f"{model}.{figure}", value, conditions)


if __name__ == "__main__":
    main()
