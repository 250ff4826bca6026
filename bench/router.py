"""Measures the router on one core; load and pods run on another (bench/router_load.c).

    python -m bench.router [--runs 3] [--seconds 5] [--only FIGURE ...] [--peers] [--keep]

With --peers each run measures nginx, sglang-router and vllm-router beside this router, one after the other.
Prints the medians; --keep writes each to bench/results/router.json as soon as it is there. A peer that does
not come to an end with a workload is left out of that figure. Needs cc and two cores, otherwise idle.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import json
import os
import platform
import resource
import select
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
from bench.router_subjects import LEAST_LOAD, OCTAVO, Place, Subject, peers
from e2e.figures import keep_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "router.json"
PODS = 8
HELD = 5000
QUARTER = 250_000  # of a million
DELAY_LIMIT_MS = 25.0
LONGEST_S = 120.0  # beyond the seconds of a run
CHUNK_RATES = range(4, 61)  # a second, on each stream
Figures = dict[str, float]


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now."""
    for first in range(20_000, 30_000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise OSError("no free ports")


class UnfinishedError(RuntimeError):
    """A router has not come to an end with a workload."""


class Load:
    """The program that is both load and pods (bench/router_load.c), on core 1."""

    def __init__(self, first_pod_port: int) -> None:
        program = compiled(ROOT / "bench" / "router_load.c")
        command = ["taskset", "-c", "1", str(program), str(first_pod_port), str(PODS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, workload: str, port: int, seconds: float, amount: float) -> Figures:
        """One run of a workload, whose names are in the program's `run`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(workload, port, seconds, amount, file=stdin, flush=True)
        if not select.select([stdout], [], [], seconds + LONGEST_S)[0]:
            raise UnfinishedError(f"the workload {workload} has not ended {LONGEST_S:g} s after its time")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the load program ended in the workload {workload}: see above")
        found: Figures = json.loads(line)
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@functools.cache
def compiled(source: Path) -> Path:
    """The program of a C file, in a folder that is gone when this process is."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    program = Path(folder.name) / source.stem
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


class Bench:
    """A running router, and workloads against it."""

    def __init__(self, seconds: float, router: psutil.Popen, load: Load, first_port: int) -> None:
        self._seconds = seconds
        self._router = router
        self._load = load
        self._port, self._pods = first_port, first_port + 2

    def run(self, workload: str, amount: float = 0, *, direct: bool = False) -> Figures:
        """One run of a workload; `direct`: at a pod, without the router. Adds the router's CPU time, in s."""
        before = self._cpu_s()
        found = self._load.run(workload, self._pods if direct else self._port, self._seconds, amount)
        return found | {"cpu_s": self._cpu_s() - before}

    def _processes(self) -> list[psutil.Process]:
        return [self._router, *self._router.children(recursive=True)]

    def _cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def _rss(self) -> int:
        return sum(process.memory_info().rss for process in self._processes())

    def cpu_us(self, workload: str, amount: float = 0) -> float:
        """CPU time of the router for each answer or chunk: steadier than a rate on a shared machine."""
        found = self.run(workload, amount)
        return 1e6 * found["cpu_s"] / found["answers"]

    def added(self, workload: str, quantile: str, amount: float = 0) -> float:
        """What the router adds to a time, in ms: with it less without it."""
        return self.run(workload, amount)[quantile] - self.run(workload, amount, direct=True)[quantile]

    def most_chunks(self) -> float:
        """The most chunks a second at which 99% are late by no more than DELAY_LIMIT_MS, by bisection."""
        best, low, high = 0.0, 0, len(CHUNK_RATES)
        while low < high:
            middle = (low + high) // 2
            found = self.run("chunks", CHUNK_RATES[middle])
            if found["p99_ms"] > DELAY_LIMIT_MS:
                high = middle
            else:
                best, low = max(best, found["chunks_s"]), middle + 1
        return best

    def kb_per_stream(self) -> float:
        """The router's memory for an open stream, in KB, over that of its start."""
        before = self._rss()
        self.run("hold", HELD)
        return (self._rss() - before) / 1024 / HELD

    def slowest_cancel(self) -> float:
        """The worse p99 of the two: before the first byte, and in mid-stream."""
        return max(self.run(f"cancel-{kind}")["p99_ms"] for kind in ("silent", "stream"))

    def memory_over_distinct(self) -> Figures:
        """The router's memory after each quarter of a million requests, all prompts new, in MB."""
        found = {}
        for quarter in range(1, 5):
            self.run("distinct", QUARTER)
            found[f"rss_mb.{quarter * QUARTER // 1000}k_distinct_prompts"] = self._rss() / 2**20
        quarters = list(found.values())
        return found | {"memory_growth_mb.500k_more_distinct_prompts": quarters[3] - quarters[1]}


MEASURES: dict[str, tuple[str, Callable[[Bench], float | Figures]]] = {
    "kb_per_open_stream": ("KB", Bench.kb_per_stream),
    "short_req_s_per_core": ("req/s", lambda bench: bench.run("short")["req_s"]),
    "big_body_req_s_per_core.220KB": ("req/s", lambda bench: bench.run("big")["req_s"]),
    "chunks_s_per_core": ("chunks/s", Bench.most_chunks),
    "added_ttft_p50_ms.1000_streams": ("ms", lambda bench: bench.added("ttft", "p50_ms")),
    "added_ttft_p99_ms.1000_streams": ("ms", lambda bench: bench.added("ttft", "p99_ms")),
    "added_latency_p50_ms.1_client": ("ms", lambda bench: bench.added("short", "p50_ms", 1)),
    "added_latency_p99_ms.1_client": ("ms", lambda bench: bench.added("short", "p99_ms", 1)),
    "cancel_ms": ("ms", Bench.slowest_cancel),
    "cpu_us_per_short_request": ("us", lambda bench: bench.cpu_us("short")),
    "cpu_us_per_chunk.24000_a_second": ("us", lambda bench: bench.cpu_us("chunks", 10)),
    "memory.1M_distinct_prompts": ("MB", Bench.memory_over_distinct),
}


ALONE = {figure for figure in MEASURES if "1_client" in figure or "memory" in figure}  # not of peers


@contextlib.contextmanager
def running(subject: Subject, seconds: float) -> Iterator[Bench]:
    """A fresh router on core 0, with PODS static pods."""
    first = free_ports(2 + PODS)
    urls = [f"http://127.0.0.1:{first + 2 + number}" for number in range(PODS)]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(first, first + 1, urls, Path(folder))
        load = Load(first + 2)
        command = ["taskset", "-c", "0", *subject.command(place)]
        out = None if subject is OCTAVO else subprocess.DEVNULL
        router = psutil.Popen(command, env=os.environ | subject.environ(place), stdout=out, stderr=out)
        try:
            wait_ready(subject.ready(place))
            yield Bench(seconds, router, load, first)
        finally:
            load.stop()
            for process in [*router.children(recursive=True), router]:
                process.kill()
            router.wait()


def wait_ready(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{url} does not answer with 200 after 60 s")


def conditions(runs: int, seconds: float) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    parts = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "httptools", "msgspec"))
    layout = f"loopback, {PODS} pods, router on one core, load and pods (in C) on another"
    work = (
        f"policy prefix, 1 KB bodies, 64 clients, chunks of 250 bytes; median of {runs} runs of {seconds:g} s"
    )
    load = f"load average {os.getloadavg()[0]:.0f}"
    return f"{cpu}; Python {platform.python_version()}, {parts}; {layout}; {work}; {load}"


def measured(figure: str, subjects: list[Subject], runs: int, seconds: float) -> list[dict[str, object]]:
    """Rows of the medians of this figure, the routers taking turns."""
    unit, measure = MEASURES[figure]
    values: dict[str, list[float]] = {}
    unfinished: set[str] = set()
    for subject in [each for _ in range(runs) for each in subjects]:
        if subject.name in unfinished:
            continue
        whose = "" if subject is OCTAVO else f"{subject.name}: "
        try:
            with running(subject, seconds) as bench:
                found = measure(bench)
        except UnfinishedError as error:
            print(f"{whose}{figure}: {error}", flush=True)
            unfinished.add(subject.name)
            continue
        for name, value in (found if isinstance(found, dict) else {figure: found}).items():
            values.setdefault(whose + name, []).append(value)
    rows: list[dict[str, object]] = []
    for shown, each in values.items():
        value = statistics.median(each)
        print(f"{shown:60} {value:12,.2f} {unit:9} of {', '.join(f'{v:,.2f}' for v in each)}", flush=True)
        row = {"figure": shown, "value": round(value, 3), "unit": unit}
        rows.append(row | {"conditions": conditions(runs, seconds)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    others = [LEAST_LOAD, *peers()] if arguments.peers else []
    for figure in arguments.only:
        rows = measured(
            figure, [OCTAVO, *([] if figure in ALONE else others)], arguments.runs, arguments.seconds
        )
        if arguments.keep:
            keep_rows(RESULTS, rows)


if __name__ == "__main__":
    main()
