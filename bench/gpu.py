"""The engine on one GPU: what docs/performance.md's table asks of it, in process and over HTTP.

Usage: PYTHONPATH=engine python bench/gpu.py [--runs 3] [--only GROUP ...] [--result NAME].
The model has Llama 3.1 8B's shape and random weights; requests have 512 random tokens in and 128 out at
temperature 1. Figures go to bench/results/engine-CARD.json as they are known; those of other groups stay.
bench/gpu.sh runs this with all else.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import gpu_http
from gpu_model import VOCAB, write_config
from octavo_engine.batch_size import usual_batch_size
from octavo_engine.bench.mixed import Mixture, measure_mixed
from octavo_engine.bench.prefix import measure_prefix
from octavo_engine.config import (
    CacheConfig,
    CacheDtype,
    EngineConfig,
    ModelConfig,
    ParallelConfig,
    QuantizationMethod,
    SchedulerConfig,
)
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest
from octavo_engine.runner.start import runner_for
from octavo_engine.sampling_params import SamplingParams

Figure = tuple[str, float, str]  # name, value, what was done
OFFLINE = ("tpot", "ttft", "prefill", "prefix", "offline_run")
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

    def tpot(self) -> Iterator[Figure]:
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

    def ttft(self) -> Iterator[Figure]:
        found = self.median(lambda: self.answer([self.prompt(PROMPT)], 1).ttfts[0], 9)
        yield "ttft_ms.512", 1e3 * found, "one request on an idle engine"

    def prefill(self) -> Iterator[Figure]:
        found = self.median(lambda: self.answer([self.prompt(1024) for _ in range(64)], 1).seconds)
        yield "prefill_tok_s", 64 * 1024 / found, "64 prompts of 1024 tokens, one token out"

    def offline_run(self) -> Iterator[Figure]:
        def once() -> float:
            return self.answer([self.prompt(PROMPT) for _ in range(REQUESTS)], OUTPUT).seconds

        found = statistics.median(once() for _ in range(self.runs))
        yield "offline_tok_s.1000x512x128", REQUESTS * OUTPUT / found, "1000 requests at once"

    def prefix(self) -> Iterator[Figure]:
        for clients in (1, 16):
            found = measure_prefix(
                self.core, clients=clients, prefix_len=PREFIX, own_len=16, vocab_size=VOCAB, runs=self.runs
            )
            what = f"{clients} clients at once, {PREFIX} shared tokens and 16 own, cold against cached"
            yield f"prefix_ttft_ratio.c{clients}", found["prefix_ttft_ratio"], what
            yield f"prefix_ttft_ms.c{clients}", found["cached_ttft_ms"], f"{what}: cached"

    def mixed(self) -> Iterator[Figure]:
        for streams in (8, 64):
            mixture = Mixture(streams, 2, 2000, PROMPT, 300, VOCAB)
            runs = [measure_mixed(self.core, replace(mixture, seed=seed)) for seed in range(self.runs + 1)][
                1:
            ]
            suffix = "mixed_long_prompts" + ("" if streams == 8 else f".{streams}_streams")
            what = (
                f"gaps between tokens of {streams} streams, two prompts of 2,000 tokens always in the queue"
            )

            def middle(figure: Callable[[dict[str, Any]], float], runs: list[dict[str, Any]] = runs) -> float:
                return statistics.median(figure(run) for run in runs)

            yield f"tpot_p99_ratio.{suffix}", middle(lambda run: run["tpot_p99_ratio"]), f"{what}, over idle"
            yield f"tpot_p99_ms.{suffix}", middle(lambda run: run["loaded_tpot_ms"]["p99"]), what
            yield f"tpot_p50_ms.{suffix}", middle(lambda run: run["loaded_tpot_ms"]["p50"]), what
            yield f"prefill_tok_s.{suffix}", middle(lambda run: run["prompt_tokens_per_s"]), what

    def fp8_tpot(self) -> Iterator[Figure]:
        for figure, value, what in self.tpot():
            if figure.startswith("tpot_ms"):
                yield f"fp8_{figure}", value, f"{what}; weights and activations in FP8"

    def fp8_kv_tpot(self) -> Iterator[Figure]:
        for figure, value, what in self.fp8_tpot():
            yield figure.replace("fp8_", "fp8_kv_"), value, f"{what}, KV cache too"


def configuration(
    folder: str, quantization: QuantizationMethod | None = None, cache: CacheDtype = "auto", tensor: int = 1
) -> EngineConfig:
    write_config(Path(folder))
    batch = usual_batch_size("cuda")
    return EngineConfig(
        model=ModelConfig(
            source=folder,
            load_format="dummy",
            dtype="bfloat16",
            device="cuda",
            max_model_len=8192,
            quantization=quantization,
        ),
        cache=CacheConfig(dtype=cache),
        scheduler=SchedulerConfig(
            max_num_seqs=batch.sequences, max_num_batched_tokens=batch.tokens, max_waiting=1 << 30
        ),
        parallel=ParallelConfig(tensor=tensor),
    )


@contextmanager
def engine(
    quantization: QuantizationMethod | None = None, cache: CacheDtype = "auto", tensor: int = 1
) -> Iterator[EngineCore]:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(folder, quantization, cache, tensor)
        core = EngineCore(config, runner_for(config))
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


class Results:
    """The card's file of figures, written whenever one is known: what was measured is kept."""

    def __init__(self, name: str | None, runs: int) -> None:
        card = torch.cuda.get_device_name()
        model = next((word.lower() for word in ("H100", "H200") if word in card), "gpu")
        self._file = Path(__file__).resolve().parent / "results" / f"{name or f'engine-{model}'}.json"
        aims = "" if model == "h100" else " (aims and peer: H100)"
        self._common = (
            f"{card}{aims}, torch {torch.__version__}, CUDA {torch.version.cuda}, Llama 3.1 8B's shape with "
            f"random bf16 weights, {PROMPT} in, {OUTPUT} out, temperature 1; median of {runs}"
        )
        found = json.loads(self._file.read_text()) if self._file.exists() else []
        self._rows: dict[str, dict[str, object]] = {row["figure"]: row for row in found}

    def note(self, figure: str, value: float, what: str) -> None:
        unit = "ms" if "_ms" in figure else "s" if figure.startswith("start") else "x"
        unit = "tok/s" if "tok_s" in figure else unit
        conditions = f"{what}; {self._common}"
        row = {"figure": figure, "value": round(value, 3), "unit": unit, "conditions": conditions}
        self._rows[figure] = row
        print(f"{figure:44} {value:12.3f} {unit}", flush=True)
        self._file.write_text(json.dumps(list(self._rows.values()), indent=2) + "\n")


def start(runs: int) -> Iterator[Figure]:
    found = statistics.median(seconds_to_first_token() for _ in range(runs))
    yield "start_s.8b", found, "a new process to its first token; kernels in the disk cache, no weights read"


def in_process(
    runs: int,
    names: list[str],
    quantization: QuantizationMethod | None = None,
    cache: CacheDtype = "auto",
) -> Iterator[Figure]:
    with engine(quantization, cache) as core:
        bench = Bench(core, runs)
        for name in names:
            for figure, value, what in getattr(bench, name)():
                yield figure, value, f"{what}; in process"
    del core, bench
    gc.collect()
    torch.cuda.empty_cache()  # the next engine wants all of it


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    runs, only = arguments.runs, set(arguments.only)
    if "start" in only:
        yield from start(runs)
    if "http" in only:
        yield from gpu_http.measure(runs, arguments.api_workers, arguments.clients)
    names = [name for name in OFFLINE if name in only or "offline" in only]
    names += ["mixed"] if "mixed" in only else []
    if names:
        yield from in_process(runs, names)
    if "fp8" in only:
        yield from in_process(runs, ["fp8_tpot"], "fp8")
    if "fp8_kv" in only:
        yield from in_process(runs, ["fp8_kv_tpot"], "fp8", "fp8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    groups = ["start", "offline", "mixed", "http", "fp8"]
    parser.add_argument("--only", nargs="+", default=groups, choices=[*groups, "fp8_kv", *OFFLINE])
    parser.add_argument("--result", default=None, help="default: engine-CARD")
    parser.add_argument("--api-workers", type=int, default=4)
    parser.add_argument("--clients", type=int, nargs="+", default=list(BATCHES), help="over HTTP")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        answer_one_token()
        return
    results = Results(arguments.result, arguments.runs)
    for figure, value, what in figures(arguments):
        results.note(figure, value, what)


if __name__ == "__main__":
    main()
