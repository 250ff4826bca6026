"""The engine over two GPUs, beside one GPU of the same machine, in one call of some five minutes.

Usage: PYTHONPATH=engine:. python bench/gpu_parallel.py [--runs 1] [--only PART ...] [--result engine-h100-x2]
Parts: tests (logits of TP 2 and PP 2 against one rank), one, tp2, pp2, big (70B's shape in FP8), server (from
a process's start to its first token, and from a rank's death or stop to the engine's end). Each part has
processes of its own. Figures go to bench/results/RESULT.json as they are known; a table is printed last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpu import BATCHES, OUTPUT, PROMPT, REQUESTS, Bench
from gpu_model import LLAMA_3_1_8B
from gpu_rank_lost import server
from gpu_timing import copy_bandwidth
from octavo_engine.batch_size import usual_batch_size
from octavo_engine.config import EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.runner.start import runner_for

ROOT = Path(__file__).resolve().parents[1]
LLAMA_3_1_70B = LLAMA_3_1_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
SETUPS: dict[str, tuple[ParallelConfig, dict[str, Any]]] = {
    "one": (ParallelConfig(), LLAMA_3_1_8B),
    "tp2": (ParallelConfig(tensor=2), LLAMA_3_1_8B),
    "pp2": (ParallelConfig(pipeline=2), LLAMA_3_1_8B),
    "big": (ParallelConfig(tensor=2), LLAMA_3_1_70B),
}
PARTS = ("tests", "server", "one", "tp2", "pp2", "big")
LIMIT_SECONDS = 150  # of a part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=1, help="counted runs of each figure, after one to warm up"
    )
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--result", default="engine-h100-x2")
    parser.add_argument("--part", choices=SETUPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure(arguments.part, arguments.runs, arguments.batches)
        return
    results = Results(arguments.result, arguments.runs)
    for part in arguments.only:
        began = time.monotonic()
        print(f"== {part}", flush=True)
        for figure, value, what in run_part(part, arguments.runs, arguments.batches):
            results.note(figure, value, what)
        print(f"== {part} took {time.monotonic() - began:.0f} s", flush=True)
    results.note_ratios()
    results.table()


def run_part(part: str, runs: int, batches: list[int]) -> Iterator[tuple[str, float, str]]:
    if part == "tests":
        yield from tests()
    elif part == "server":
        yield from server()
    else:
        yield from child(part, runs, batches)


# ---- a part in a process of its own ----------------------------------------------------------------------
def child(part: str, runs: int, batches: list[int]) -> Iterator[tuple[str, float, str]]:
    command = [sys.executable, __file__, "--part", part, "--runs", str(runs)]
    command += ["--batches", *map(str, batches)]
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="0") if part == "one" else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + LIMIT_SECONDS
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
                yield found["figure"], found["value"], found["what"]
            else:
                print(line, end="", flush=True)
            if time.monotonic() > deadline:
                print(f"{part} takes too long: ended", flush=True)
                process.kill()
        if process.wait():
            print(f"FAILED {part}: exit code {process.returncode}", flush=True)


def measure(part: str, runs: int, batches: list[int]) -> None:
    """Print a JSON line a figure; the process ends without ado, as NCCL's own way out is slow."""
    parallel, model = SETUPS[part]
    batch = usual_batch_size("cuda")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model))
        config = EngineConfig(
            model=ModelConfig(
                source=folder,
                load_format="dummy",
                dtype="bfloat16",
                device="cuda",
                max_model_len=8192,
                quantization="fp8" if part == "big" else None,
            ),
            scheduler=SchedulerConfig(
                max_num_seqs=64 if part == "big" else batch.sequences,
                max_num_batched_tokens=batch.tokens,
                max_waiting=1 << 30,
            ),
            parallel=parallel,
        )
        began = time.monotonic()
        core = EngineCore(config, runner_for(config))
        ready = core.start()
        print(f"{ready.num_blocks} blocks, started in {time.monotonic() - began:.1f} s", flush=True)
        for figure, value, what in figures(part, Bench(core, runs), batches):
            print(json.dumps({"figure": figure, "value": value, "what": what}), flush=True)
        core.shutdown()
    os._exit(0)


def figures(part: str, bench: Bench, batches: list[int]) -> Iterator[tuple[str, float, str]]:
    setup = {"one": "one GPU", "tp2": "TP 2", "pp2": "PP 2", "big": "70B's shape in FP8, TP 2"}[part]
    if part != "pp2":
        for batch in (1, 32) if part == "big" else batches:
            yield f"tpot_ms.{part}.b{batch}", tpot(bench, batch), f"{setup}, {batch} requests at once"
    if part == "big":
        yield "weights_read_limit_ms.big", limit_ms(), "reading a rank's weights at the card's copy bandwidth"
        return
    seconds = [bench.answer([bench.prompt(PROMPT) for _ in range(REQUESTS)], OUTPUT).seconds]
    seconds += [
        bench.answer([bench.prompt(PROMPT) for _ in range(REQUESTS)], OUTPUT).seconds
        for _ in range(bench.runs - 1)
    ]
    rate = REQUESTS * OUTPUT / statistics.median(seconds)
    most = bench.core.config.scheduler.max_num_seqs
    yield f"offline_tok_s.{part}", rate, f"{setup}, {REQUESTS} requests at once, {most} of them running"


def tpot(bench: Bench, batch: int) -> float:
    """Milliseconds of the steps in which all decode."""
    runs = [bench.answer([bench.prompt(PROMPT) for _ in range(batch)], OUTPUT) for _ in range(bench.runs + 1)]
    return 1e3 * statistics.median(answers.step_seconds for answers in runs[1:])


def limit_ms() -> float:
    """A rank's half of the products in FP8 and of the head in bf16, each read once."""
    m = LLAMA_3_1_70B
    attention = m["hidden_size"] * m["head_dim"] * 2 * (m["num_attention_heads"] + m["num_key_value_heads"])
    layers = m["num_hidden_layers"] * (attention + 3 * m["hidden_size"] * m["intermediate_size"])
    size = (layers + 2 * m["vocab_size"] * m["hidden_size"]) / 2
    return 1e3 * size / copy_bandwidth()


# ---- the tests -------------------------------------------------------------------------------------------
def tests() -> Iterator[tuple[str, float, str]]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    done = subprocess.run([*command, "tests/engine/runner/parallel/test_gpu.py"], cwd=ROOT, check=False)
    if done.returncode:
        print(f"FAILED tests: exit code {done.returncode}", flush=True)
    yield "tests_failed.tp2_pp2", float(done.returncode != 0), "logits of TP 2 and PP 2 against one rank"


# ---- what was found --------------------------------------------------------------------------------------
class Results:
    """The file of figures, written whenever one is known; those of parts that did not run stay."""

    def __init__(self, name: str, runs: int) -> None:
        self._file = ROOT / "bench" / "results" / f"{name}.json"
        self._common = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, torch {torch.__version__}, "
            f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}, no multicast, "
            f"Llama 3.1 8B's shape with random bf16 weights, {PROMPT} in, {OUTPUT} out, temperature 1, "
            f"median of {runs}"
        )
        found = json.loads(self._file.read_text()) if self._file.exists() else []
        self._rows: dict[str, dict[str, Any]] = {row["figure"]: row for row in found}

    def note(self, figure: str, value: float, what: str) -> None:
        unit = "ms" if "_ms" in figure else "tok/s" if "tok_s" in figure else "s" if "_s." in figure else "x"
        conditions = f"{what}; {self._common}"
        self._rows[figure] = {
            "figure": figure,
            "value": round(value, 3),
            "unit": unit,
            "conditions": conditions,
        }
        print(f"{figure:36} {value:12.3f} {unit}", flush=True)
        self._file.write_text(json.dumps(list(self._rows.values()), indent=2) + "\n")

    def note_ratios(self) -> None:
        """TP 2 and PP 2 over one GPU; the 70B's share of the memory limit."""
        for batch in BATCHES:
            self._note_ratio(f"tpot_ratio.tp2.b{batch}", f"tpot_ms.tp2.b{batch}", f"tpot_ms.one.b{batch}")
        for part in ("tp2", "pp2"):
            self._note_ratio(f"offline_ratio.{part}", f"offline_tok_s.{part}", "offline_tok_s.one")
        for batch in (1, 32):
            self._note_ratio(
                f"limit_share.big.b{batch}", "weights_read_limit_ms.big", f"tpot_ms.big.b{batch}"
            )

    def _note_ratio(self, figure: str, above: str, below: str) -> None:
        if above in self._rows and below in self._rows:
            value = self._rows[above]["value"] / self._rows[below]["value"]
            self.note(figure, value, f"{above} / {below}")

    def table(self) -> None:
        print(f"\n{self._common}")
        for row in self._rows.values():
            print(f"{row['figure']:36} {row['value']:12.3f} {row['unit']}")


if __name__ == "__main__":
    main()
