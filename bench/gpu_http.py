"""The server over HTTP on one GPU: tokens a second and time to the first token, by number of clients."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gpu_model import VOCAB, write_model
from octavo_engine.bench.serve import Load, run_load

PROMPT, OUTPUT, WAVES, MOST_REQUESTS = 512, 128, 4, 1000
NAME = "bench"


class Server(NamedTuple):
    url: str
    pid: int
    seconds: float  # from the process's start to its first token


@contextmanager
def server(api_workers: int, *flags: str) -> Iterator[Server]:
    """A server of the model without weights, which has answered once."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        port = free_port()
        command = [sys.executable, "-m", "octavo_engine", "serve", folder, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--load-format", "dummy", "--max-model-len", "8192"]
        command += ["--served-model-name", NAME, "--max-waiting", "100000", "--log-level", "warning"]
        command += ["--api-workers", str(api_workers), *flags]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for_completion(url, process)
            yield Server(url, process.pid, time.perf_counter() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_completion(url: str, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(
        f"{url}/v1/completions",
        data=b'{"prompt": [5, 6, 7], "max_tokens": 1}',
        headers={"Content-Type": "application/json"},
    )
    while process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise SystemExit("the server ended before its first completion")


def answer(url: str, clients: int, seed: int) -> dict[str, Any]:
    requests = min(max(8, WAVES * clients), MOST_REQUESTS)
    load = Load(requests, PROMPT, OUTPUT, clients, 0.0, VOCAB, seed)
    found = run_load(url, NAME, load)
    assert found["failed"] == 0, found["first_error"]
    return found


def measure(runs: int, api_workers: int, clients: list[int]) -> Iterator[tuple[str, float, str]]:
    with server(api_workers) as (url, _, seconds):
        how = (
            f"over HTTP, streamed, token ids in, text out, {api_workers} API workers, {os.cpu_count()} cores"
        )
        yield "start_s.8b_http", seconds, f"a new server process to its first token {how}; no weights read"
        for count in clients:
            answer(url, count, seed=0)  # to warm up
            found = [answer(url, count, seed=1000 * (1 + run)) for run in range(runs)]
            what = f"{count} clients, {how}"
            yield f"http_tok_s.c{count}", middle(found, "output_tokens_per_s"), what
            yield f"http_ttft_ms.c{count}", middle(found, "ttft_ms", "p50"), f"{what}; p50"
            yield f"http_ttft_p99_ms.c{count}", middle(found, "ttft_ms", "p99"), f"{what}; p99"
            yield f"http_tpot_ms.c{count}", middle(found, "tpot_ms", "p50"), f"{what}; p50"
            yield f"http_itl_p99_ms.c{count}", middle(found, "itl_ms", "p99"), f"{what}; gaps between chunks"


def middle(found: list[dict[str, Any]], name: str, part: str | None = None) -> float:
    return statistics.median(run[name] if part is None else run[name][part] for run in found)
