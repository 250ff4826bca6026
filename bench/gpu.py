"""The engine on one GPU, in process: what docs/performance.md's table asks of it beside HTTP.

Usage: python bench/gpu.py [--runs 3] [--only tpot ttft ...] [--result NAME]. The model has Llama 3.1 8B's
shape and random weights; requests have 512 random tokens in and 128 out at temperature 1. Writes
bench/results/NAME.json. ``--start`` is the program's own way to time a fresh process.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

VOCAB = 128256
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "torch_dtype": "bfloat16",
    "eos_token_id": [128001, 128008, 128009],
}
BATCHES = (1, 8, 32, 128, 256)
PROMPT, OUTPUT, REQUESTS, PREFIX = 512, 128, 1000, 2000


@dataclass
class Answers:
    """Times of every token of every request, in seconds of time.perf_counter(), and of every step."""

    began: float
    tokens: dict[str, list[float]]
    steps: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.steps[-1] - self.began

    @property
    def ttfts(self) -> list[float]:
        return [times[0] - self.began for times in self.tokens.values()]

    @property
    def step_seconds(self) -> float:
        """Mean seconds of the steps in which every request decodes."""
        begin = max(times[0] for times in self.tokens.values())
        end = min(times[-1] for times in self.tokens.values())
        inside = [at for at in self.steps if begin <= at <= end]
        return (inside[-1] - inside[0]) / (len(inside) - 1)

    @property
    def tpot(self) -> float:
        """Mean seconds between a request's tokens, the prompts of the others included."""
        return statistics.mean((times[-1] - times[0]) / (len(times) - 1) for times in self.tokens.values())


@dataclass
class Bench:
    core: EngineCore
    runs: int
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    served: int = 0

    def prompt(self, length: int) -> list[int]:
        return self.draw.choices(range(VOCAB), k=length)

    def answer(self, prompts: list[list[int]], output: int) -> Answers:
        params = SamplingParams(temperature=1.0, max_tokens=output, ignore_eos=True)
        names = [f"bench-{self.served + i}" for i in range(len(prompts))]
        self.served += len(prompts)
        found = Answers(time.perf_counter(), {name: [] for name in names})
        for name, prompt in zip(names, prompts, strict=True):
            self.core.add(AddRequest(name, prompt, params, 0.0))
        while self.core.has_work():
            outputs = self.core.step().outputs
            now = time.perf_counter()
            if outputs:
                found.steps.append(now)
            for one in outputs:
                assert one.error is None, one.error
                found.tokens[one.request_id] += [now] * len(one.token_ids)
        return found

    def median(self, measure: Callable[[], float], runs: int | None = None) -> float:
        """Of ``runs`` after one to warm up."""
        measure()
        return statistics.median(measure() for _ in range(runs or self.runs))

    def tpot(self) -> Iterator[tuple[str, float, str]]:
        for batch in BATCHES:
            found = [
                self.answer([self.prompt(PROMPT) for _ in range(batch)], OUTPUT) for _ in range(self.runs + 1)
            ]
            step = statistics.median(answers.step_seconds for answers in found[1:])
            whole = statistics.median(answers.tpot for answers in found[1:])
            yield f"tpot_ms.b{batch}", 1e3 * step, f"{batch} requests at once; steps in which all decode"
            yield (
                f"tpot_whole_ms.b{batch}",
                1e3 * whole,
                f"{batch} requests at once; prompts of others included",
            )

    def ttft(self) -> Iterator[tuple[str, float, str]]:
        found = self.median(lambda: self.answer([self.prompt(PROMPT)], 1).ttfts[0], 9)
        yield "ttft_ms.512", 1e3 * found, "one request on an idle engine"

    def prefill(self) -> Iterator[tuple[str, float, str]]:
        found = self.median(lambda: self.answer([self.prompt(1024) for _ in range(64)], 1).seconds)
        yield "prefill_tok_s", 64 * 1024 / found, "64 prompts of 1024 tokens, one token out"

    def offline(self) -> Iterator[tuple[str, float, str]]:
        def once() -> float:
            return self.answer([self.prompt(PROMPT) for _ in range(REQUESTS)], OUTPUT).seconds

        found = statistics.median(once() for _ in range(self.runs))
        yield "offline_tok_s.1000x512x128", REQUESTS * OUTPUT / found, "1000 requests at once"

    def prefix(self) -> Iterator[tuple[str, float, str]]:
        for clients in (1, 16):

            def ratio(clients: int = clients) -> float:
                cold = self.answer([self.prompt(PREFIX + 16) for _ in range(clients)], 1)
                shared = self.prompt(PREFIX)
                self.answer([shared], 1)
                warm = self.answer([shared + self.prompt(16) for _ in range(clients)], 1)
                return statistics.median(cold.ttfts) / statistics.median(warm.ttfts)

            what = f"{clients} clients at once, {PREFIX} shared tokens and 16 own, cold against cached"
            yield f"prefix_ttft_ratio.c{clients}", self.median(ratio), what


def configuration(folder: str) -> EngineConfig:
    (Path(folder) / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    return EngineConfig(
        model=ModelConfig(
            source=folder, load_format="dummy", dtype="bfloat16", device="cuda", max_model_len=8192
        ),
        cache=CacheConfig(),
        scheduler=SchedulerConfig(max_waiting=1 << 30),
    )


@contextmanager
def engine() -> Iterator[EngineCore]:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(folder)
        core = EngineCore(config, ModelRunner(config))
        ready = core.start()
        print(f"{ready.num_blocks} blocks, loaded in {ready.load_seconds:.1f} s", flush=True)
        yield core
        core.shutdown()


def seconds_to_first_token() -> float:
    """Of a process of its own, from its beginning."""
    began = time.time()
    command = [sys.executable, __file__, "--start"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.splitlines()[-1]) - began


def answer_one_token() -> None:
    with engine() as core:
        Bench(core, 1).answer([[1] * 16], 1)
        print(time.time())


def measure(runs: int, only: list[str]) -> list[dict[str, object]]:
    card = torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    common = (
        f"{card} (aims and peer: H100), {versions}, Llama 3.1 8B's shape with random bf16 weights, "
        f"{PROMPT} in, {OUTPUT} out, temperature 1, in process; median of {runs}"
    )
    rows: list[dict[str, object]] = []

    def note(figure: str, value: float, what: str) -> None:
        unit = "ms" if "_ms" in figure else "s" if figure.startswith("start") else "x"
        unit = "tok/s" if "tok_s" in figure else unit
        rows.append(
            {"figure": figure, "value": round(value, 3), "unit": unit, "conditions": f"{what}; {common}"}
        )
        print(f"{figure:32} {value:10.3f} {unit}", flush=True)

    if "start" in only:
        found = statistics.median(seconds_to_first_token() for _ in range(runs))
        note(
            "start_s.8b",
            found,
            "a new process to its first token; kernels in the disk cache, no weights read",
        )

    with engine() as core:
        bench = Bench(core, runs)
        for name in ("tpot", "ttft", "prefill", "prefix", "offline"):
            if name in only:
                for found in getattr(bench, name)():
                    note(*found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parts = ["tpot", "ttft", "prefill", "prefix", "offline", "start"]
    parser.add_argument("--only", nargs="+", default=parts, choices=parts)
    parser.add_argument("--result", default="engine-h200")
    parser.add_argument("--start", action="store_true")
    arguments = parser.parse_args()
    if arguments.start:
        answer_one_token()
        return
    rows = measure(arguments.runs, arguments.only)
    target = Path(__file__).resolve().parent / "results" / f"{arguments.result}.json"
    target.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
