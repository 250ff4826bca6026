"""A server over two GPUs: its start, and its end when one of its ranks is killed or stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gpu_http import free_port
from gpu_model import write_model

LIMIT_SECONDS = 150  # until the first token


def server() -> Iterator[tuple[str, float, str]]:
    """TP 2 over HTTP: the first token; a rank killed, in another server stopped, while a stream runs."""
    start, killed = lose_a_rank(signal.SIGKILL)
    yield "start_s.tp2", start, "TP 2: a server's start to its first token over HTTP"
    yield "killed_s.tp2", killed, "TP 2: a rank's SIGKILL to the engine's end"
    _, stopped = lose_a_rank(signal.SIGSTOP)
    yield "stopped_s.tp2", stopped, "TP 2: a rank's SIGSTOP to the engine's end, which takes it for hung"


def lose_a_rank(by: signal.Signals) -> tuple[float, float]:
    """Seconds from the server's start to its first token, and from the rank's signal to the server's end."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        write_model(Path(folder))
        port = free_port()
        command = [sys.executable, "-m", "octavo_engine", "serve", folder, "-tp", "2", "--port", str(port)]
        command += ["--host", "127.0.0.1", "--load-format", "dummy", "--max-model-len", "8192"]
        began = time.monotonic()
        with subprocess.Popen(command, stderr=errors) as process:
            try:
                wait_for_token(f"http://127.0.0.1:{port}", process)
                start = time.monotonic() - began
                lost = end_by_losing(by, port, process)
            finally:
                process.kill()
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if line.strip()]
        print(
            f"exit code {process.returncode}; last line on stderr: {lines[-1] if lines else ''}", flush=True
        )
    return start, lost


def wait_for_token(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            complete(url, 1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit("the server gave no token")


def complete(url: str, tokens: int) -> None:
    body = {"prompt": "A book is", "max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def end_by_losing(by: signal.Signals, port: int, process: subprocess.Popen[bytes]) -> float:
    stream = subprocess.Popen(
        [sys.executable, "-c", f"import gpu_rank_lost as g; g.complete('http://127.0.0.1:{port}', 8000)"],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent,
    )
    time.sleep(5)  # the stream is under way
    worker = worker_of(process.pid)
    os.kill(worker, by)
    began = time.monotonic()
    try:
        process.wait(60)
        return time.monotonic() - began
    finally:
        stream.kill()
        stream.wait()
        if Path(f"/proc/{worker}").exists():
            os.kill(worker, signal.SIGKILL)


def worker_of(pid: int) -> int:
    """The worker process among the descendants of ``pid``."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        if b"runner.parallel.worker" in Path(f"/proc/{member}/cmdline").read_bytes():
            return member
    raise SystemExit("no worker process is found")
