"""What HTTP costs: 256 streams through 1 and more API processes, before a runner that computes nothing.

Usage: python bench/api_server.py [--workers 1 2] [--clients 256] [--step-ms 37]. A step of 37 ms asks for
6,900 tokens a second of 256 streams. Writes bench/results/api-server.json: tokens a second that came through,
and microseconds of CPU time a token in the API processes and in the core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "bench")]

import gpu_http  # noqa: E402
from gpu_model import VOCAB  # noqa: E402
from octavo_engine.bench.serve import Load, run_load  # noqa: E402

RUNNER = "bench.paced_runner:PacedRunner"


@dataclass(frozen=True)
class Sample:
    tokens_per_s: float
    api_us: float  # CPU time a token, all API processes together
    core_us: float
    ttft_ms: float


def cpu_seconds(server: psutil.Process) -> tuple[float, float]:
    """(API processes, core) of a server."""
    api = core = 0.0
    for process in [server, *server.children()]:
        times = process.cpu_times()
        seconds = times.user + times.system
        if "octavo_engine.core_process" in process.cmdline():
            core += seconds
        else:
            api += seconds
    return api, core


def measure(server: gpu_http.Server, clients: int, requests: int, output: int, seed: int) -> Sample:
    family = psutil.Process(server.pid)
    before = cpu_seconds(family)
    found = run_load(server.url, gpu_http.NAME, Load(requests, 64, output, clients, 0.0, VOCAB, seed))
    assert found["failed"] == 0, found["first_error"]
    api, core = (after - first for after, first in zip(cpu_seconds(family), before, strict=True))
    tokens = requests * output
    return Sample(
        found["output_tokens_per_s"], 1e6 * api / tokens, 1e6 * core / tokens, found["ttft_ms"]["p50"]
    )


def entry(figure: str, values: list[float], unit: str, conditions: str) -> dict[str, object]:
    value = statistics.median(values)
    print(f"{figure:32} {value:10.2f} {unit}", flush=True)
    return {"figure": figure, "value": round(value, 2), "unit": unit, "conditions": conditions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=37.0)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "api-server.json")
    arguments = parser.parse_args()
    paths = [str(ROOT / "engine"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ |= {"OCTAVO_STEP_MS": str(arguments.step_ms), "PYTHONPATH": os.pathsep.join(paths)}
    rows: list[dict[str, object]] = []
    for workers in arguments.workers:
        with gpu_http.server(workers, "--runner", RUNNER) as server:
            measure(server, arguments.clients, arguments.clients, 16, 0)
            samples = [
                measure(server, arguments.clients, arguments.clients, arguments.output_len, 1 + 1000 * run)
                for run in range(arguments.runs)
            ]
        conditions = (
            f"{arguments.clients} clients, 64 token ids in, {arguments.output_len} tokens out, streamed, a "
            f"runner without a model with steps of {arguments.step_ms:g} ms; {workers} API processes, load "
            f"and server on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
            f"Python {platform.python_version()}; median of {arguments.runs}"
        )
        suffix = f".{workers}_workers"
        rows.append(entry(f"tok_s{suffix}", [s.tokens_per_s for s in samples], "tok/s", conditions))
        rows.append(entry(f"api_us_per_token{suffix}", [s.api_us for s in samples], "us", conditions))
        rows.append(entry(f"core_us_per_token{suffix}", [s.core_us for s in samples], "us", conditions))
        rows.append(entry(f"ttft_ms{suffix}", [s.ttft_ms for s in samples], "ms", conditions))
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
