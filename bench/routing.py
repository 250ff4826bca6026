"""Compares routing policies: real engines behind a real router, and 64 pods in simulated time.

    python -m bench.routing [--only decision|table|simulated|real]

Prints the figures and keeps them in bench/results/routing.json. The real part starts four engines
(a random Llama of 4 layers on one CPU thread each) and one router a policy; it takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import psutil
from e2e.cluster.control_plane import free_ports
from e2e.figures import keep_rows
from tests.engine.server.tiny_model import VOCAB_SIZE, make_tiny_model

from bench import routing_decision, routing_simulation
from octavo_router.policies import POLICY_NAMES, PolicyName
from octavo_router.prefix import PrefixTable

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "routing.json"
ENGINES = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
UNITS = {"hit_rate": "ratio", "ttft_p50_ms": "ms", "ttft_p99_ms": "ms", "balance": "x"}
Figures = dict[str, float]


# --- real engines


@contextlib.contextmanager
def processes(commands: Iterable[list[str]], **environ: str) -> Iterator[None]:
    """Runs commands for the time of the block."""
    path = os.pathsep.join(str(ROOT / part) for part in ("engine", "router", "."))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environ}
    running = [subprocess.Popen([sys.executable, "-m", *c], env=env, cwd=ROOT) for c in commands]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def until_well(urls: Iterable[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    for url in urls:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url).status_code == 200:
                    break
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} was not well within {seconds:g} s")
            time.sleep(0.1)


@contextlib.contextmanager
def engines(folder: Path) -> Iterator[list[str]]:
    make_tiny_model(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    ports = free_ports(ENGINES)
    flags = ["--model", str(folder), "--load-format", "dummy", "--device", "cpu", "--host", "127.0.0.1"]
    flags += ["--served-model-name", "m", "--log-level", "warning", "--kv-cache-memory-bytes", "256000000"]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with processes([["octavo_engine", "serve", *flags, "--port", str(port)] for port in ports]):
        until_well(f"{url}/health" for url in urls)
        yield urls


@contextlib.contextmanager
def router(urls: list[str], policy: PolicyName, folder: Path) -> Iterator[str]:
    static = folder / "models.yaml"
    static.write_text(json.dumps({"models": {"m": {"urls": urls, "policy": policy}}}))
    port, admin = free_ports(2)
    environ = {"OCTAVO_HOST": "127.0.0.1", "OCTAVO_PORT": str(port), "OCTAVO_ADMIN_PORT": str(admin)}
    with processes([["octavo_router", "--static", str(static)]], **environ, OCTAVO_LAME_DUCK="0"):
        until_well([f"http://127.0.0.1:{admin}/readyz"])
        yield f"http://127.0.0.1:{port}"


def letters(chance: random.Random, count: int) -> str:
    """One token each: the tokenizer's other tokens are words that do not occur."""
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=count))


def metric(urls: list[str], name: str) -> list[float]:
    def one(url: str) -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    return [one(url) for url in urls]


async def ttft_of(http: httpx.AsyncClient, url: str, user: str, messages: list[dict[str, str]]) -> float:
    """Seconds to the first event; the answer, 16 tokens of nonsense, goes into the conversation."""
    body = {"model": "m", "user": user, "messages": messages, "stream": True, "max_tokens": 16}
    began, first, text = time.perf_counter(), 0.0, ""
    body |= {"ignore_eos": True, "temperature": 0}
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as stream:
        stream.raise_for_status()
        async for line in stream.aiter_lines():
            first = first or time.perf_counter() - began
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                text += (choices[0]["delta"].get("content") or "") if choices else ""
    messages.append({"role": "assistant", "content": text})
    return first


async def chats(http: httpx.AsyncClient, url: str, seed: str) -> list[float]:
    """12 conversations of 5 turns, side by side, after one system prompt."""
    system = letters(random.Random(seed), 400)

    async def chat(number: int) -> list[float]:
        chance = random.Random(f"{seed} {number}")
        messages = [{"role": "system", "content": system}]
        times = []
        for _ in range(5):
            await asyncio.sleep(chance.expovariate(1))
            messages.append({"role": "user", "content": letters(chance, 400)})
            times.append(await ttft_of(http, url, f"user {number}", messages))
        return times

    return [t for times in await asyncio.gather(*map(chat, range(12))) for t in times]


async def questions(http: httpx.AsyncClient, url: str, seed: str) -> list[float]:
    """60 questions about 8 documents, four at a time."""
    chance, gate = random.Random(seed), asyncio.Semaphore(4)
    documents = [letters(chance, 2_000) for _ in range(8)]

    async def ask(number: int, document: str, question: str) -> float:
        async with gate:
            messages = [{"role": "system", "content": document}, {"role": "user", "content": question}]
            return await ttft_of(http, url, f"user {number}", messages)

    asked = [(n, chance.choice(documents), letters(chance, 60)) for n in range(60)]
    return list(await asyncio.gather(*(ask(*each) for each in asked)))


REAL = {"multi_turn": chats, "shared_prefix": questions}


async def measure_real(urls: list[str], url: str, workload: str, seed: str) -> Figures:
    names = ("octavo_prefix_cache_hits_total", "octavo_prefix_cache_queries_total")
    served = "octavo_e2e_request_latency_seconds_count"
    before = [metric(urls, name) for name in (*names, served)]
    async with httpx.AsyncClient() as http:
        times = await REAL[workload](http, url, seed)
    after = [metric(urls, name) for name in (*names, served)]
    hits, queries, requests = (
        [b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)
    )
    cuts = statistics.quantiles(times, n=100)
    return {
        "hit_rate": sum(hits) / sum(queries),
        "ttft_p50_ms": 1000 * cuts[49],
        "ttft_p99_ms": 1000 * cuts[98],
        "balance": max(requests) / statistics.fmean(requests),
    }


def real() -> Iterator[tuple[str, float, str, str]]:
    conditions = f"{ENGINES} engines on one CPU thread each, {_machine()}"
    with tempfile.TemporaryDirectory() as name, engines(Path(name)) as urls:
        for workload in REAL:
            for policy in POLICY_NAMES:
                with router(urls, policy, Path(name)) as url:
                    found = asyncio.run(measure_real(urls, url, workload, f"{workload} {policy}"))
                yield from _rows(f"real4.{workload}", policy, found, conditions)


# --- simulated pods, and the table


def simulated() -> Iterator[tuple[str, float, str, str]]:
    conditions = f"{routing_simulation.PODS} pods in simulated time"
    for workload in routing_simulation.WORKLOADS:
        for policy in POLICY_NAMES:
            for routers in (1, 4):
                found = routing_simulation.simulate(workload, policy, routers)
                shown = f"{policy}" if routers == 1 else f"{policy}.{routers}_routers"
                yield from _rows(f"sim64.{workload}", shown, found, conditions)


def table() -> Iterator[tuple[str, float, str, str]]:
    """What a table of 300,000 blocks takes when it is full, and after more have gone through it."""
    tracemalloc.start()
    held: PrefixTable[object] = PrefixTable(300_000)
    pods = [object() for _ in range(64)]
    chance = random.Random(3)
    for number in range(1, 20_001):
        held.learn([chance.getrandbits(64) for _ in range(100)], pods[number % 64])
        if number in (3_000, 5_000, 10_000, 20_000):
            mib = tracemalloc.get_traced_memory()[0] / 2**20
            yield f"table_mib.{number * 100}_blocks", mib, "MiB", f"{len(held):,} blocks held"
    tracemalloc.stop()


def _rows(group: str, shown: str, found: Figures, conditions: str) -> Iterator[tuple[str, float, str, str]]:
    for figure, value in found.items():
        yield f"{group}.{figure}.{shown}", value, UNITS[figure], conditions


def _machine() -> str:
    load = psutil.getloadavg()[0]
    return f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f}"


def decision() -> Iterator[tuple[str, float, str, str]]:
    for step, value in routing_decision.measure():
        yield f"decision_us.228KB.{step}", value, "us", f"{routing_decision.MESSAGES} messages, {_machine()}"


PARTS = {"decision": decision, "table": table, "simulated": simulated, "real": real}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    only = parser.parse_args().only
    rows = []
    for part in [only] if only else PARTS:
        for figure, value, unit, conditions in PARTS[part]():
            rows.append({"figure": figure, "value": round(value, 4), "unit": unit, "conditions": conditions})
            print(f"{figure:60} {value:10.3f} {unit}", flush=True)
        keep_rows(RESULTS, rows)


if __name__ == "__main__":
    main()
