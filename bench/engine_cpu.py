"""Measures the engine on the CPU with the embedded model, over HTTP: start, speed, shared prefix, memory.

Usage: python -m bench.engine_cpu [--runs 3]. Writes bench/results/engine-cpu.json: medians of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from e2e.cluster.control_plane import free_ports

from octavo_engine.bench.serve import Load, run_load
from octavo_engine.config import CacheConfig, EngineConfig, SchedulerConfig
from octavo_engine.messages import AddRequest, SampledToken, StepResult
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.scheduler import Scheduler

RESULTS = Path(__file__).resolve().parent / "results" / "engine-cpu.json"
VOCABULARY = 49_152
BLOCK = 16
UNITS = {
    "start_s.embedded": "s",
    "output_tok_s.1": "tok/s",
    "output_tok_s.8": "tok/s",
    "ttft_ms.1000_cold": "ms",
    "ttft_ms.1000_shared": "ms",
    "prefix_ttft_ratio.1000": "x",
    "rss_mib": "MiB",
    "kv_waste_ratio": "ratio",
}


@contextmanager
def server() -> Iterator[tuple[str, float]]:
    """(base URL, seconds from the process's start to its first completion)."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    began = time.perf_counter()
    command = [sys.executable, "-m", "octavo_engine", "serve", "--port", str(port), "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--log-level", "warning"]) as process:
        try:
            wait_for_completion(url, process)
            yield url, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)


def wait_for_completion(url: str, process: subprocess.Popen[bytes]) -> None:
    body = {"prompt": "A book is", "max_tokens": 1}
    while process.poll() is None:
        try:
            if httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise SystemExit("the server ended before its first completion")


def output_rate(url: str, streams: int) -> float:
    """Output tokens a second over all streams: prompts of 64 random tokens, 64 tokens each."""
    load = Load(2 * streams, 64, 64, streams, 0.0, VOCABULARY, seed=random.randrange(1 << 30))
    summary = run_load(url, model_name(url), load)
    assert summary["failed"] == 0, summary["first_error"]
    return float(summary["output_tokens_per_s"])


def model_name(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models").json()["data"][0]["id"])


def ttft(url: str, prompt: list[int]) -> float:
    """Milliseconds to the one token asked for."""
    began = time.perf_counter()
    httpx.post(
        f"{url}/v1/completions", json={"prompt": prompt, "max_tokens": 1}, timeout=120
    ).raise_for_status()
    return (time.perf_counter() - began) * 1e3


def prefix_ttfts(url: str) -> tuple[float, float]:
    """TTFT of a new prompt of 1,000 + 16 tokens, and of another that shares the first 1,000."""
    draw = random.Random()
    shared = [draw.randrange(100, VOCABULARY) for _ in range(1000)]
    ends = [[draw.randrange(100, VOCABULARY) for _ in range(16)] for _ in range(2)]
    return ttft(url, shared + ends[0]), ttft(url, shared + ends[1])


def memory_mib() -> float:
    """Resident memory of the server's processes, shared pages counted once (PSS)."""
    return sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True)) / (1 << 20)


def kv_waste() -> float:
    """Slots of held blocks without a token / slots of held blocks, over all steps of a chat-like load."""
    config = EngineConfig(
        cache=CacheConfig(block_size=BLOCK),
        scheduler=SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=1024),
    )
    scheduler = Scheduler(
        config,
        num_blocks=4000,
        num_host_blocks=0,
        max_model_len=4096,
        vocab_size=VOCABULARY,
        eos_token_ids=[],
    )
    draw = random.Random(1)
    for number in range(200):
        scheduler.add(chat_request(str(number), draw))
    held = used = 0
    while scheduler.has_work():
        step = scheduler.schedule()
        if step is not None:
            tokens = [SampledToken(s.seq_id, 7) for s in step.sequences if s.sample]
            scheduler.update(StepResult(step.step_id, tokens))
        blocks = tokens_by_block(scheduler)
        held += BLOCK * len(blocks)
        used += sum(blocks.values())
    return (held - used) / held


def chat_request(name: str, draw: random.Random) -> AddRequest:
    """Prompts around 400 tokens, answers around 100, both log-normal."""
    prompt = min(3000, max(8, int(draw.lognormvariate(6.0, 0.7))))
    answer = min(1000, max(4, int(draw.lognormvariate(4.6, 0.7))))
    tokens = [draw.randrange(VOCABULARY) for _ in range(prompt)]
    return AddRequest(name, tokens, SamplingParams(max_tokens=answer, ignore_eos=True), 0.0)


def tokens_by_block(scheduler: Scheduler) -> dict[int, int]:
    tokens: dict[int, int] = {}
    for seq in scheduler.batch.running:
        for index, block in enumerate(seq.block_table):
            tokens[block] = max(tokens.get(block, 0), min(BLOCK, seq.num_computed - BLOCK * index))
    return tokens


def measure() -> dict[str, float]:
    with server() as (url, start):
        output_rate(url, 1)  # warm
        one, eight = output_rate(url, 1), output_rate(url, 8)
        cold, shared = prefix_ttfts(url)
        return {
            "start_s.embedded": start,
            "output_tok_s.1": one,
            "output_tok_s.8": eight,
            "ttft_ms.1000_cold": cold,
            "ttft_ms.1000_shared": shared,
            "prefix_ttft_ratio.1000": cold / shared,
            "rss_mib": memory_mib(),
            "kv_waste_ratio": kv_waste(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    values: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        for figure, value in measure().items():
            values[figure].append(value)
            print(f"{figure:24} {value:10.3f} {UNITS[figure]}", flush=True)
    RESULTS.write_text(json.dumps([entry(f, v, runs) for f, v in values.items()], indent=2) + "\n")


def entry(figure: str, values: list[float], runs: int) -> dict[str, Any]:
    conditions = (
        "SmolLM2-135M-Instruct Q4_1, dtype auto, over HTTP; 64 tokens in, 64 out; "
        f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}, "
        f"median of {runs} runs"
    )
    return {
        "figure": figure,
        "value": round(statistics.median(values), 4),
        "unit": UNITS[figure],
        "conditions": conditions,
    }


if __name__ == "__main__":
    main()
