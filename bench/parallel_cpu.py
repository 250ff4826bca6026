"""What several ranks cost beside the model, on this machine's CPU: steps told, groups started, ranks lost.

Usage: python -m bench.parallel_cpu [--runs 3]. Writes bench/results/engine-parallel-cpu.json, where it leaves
the figures of groups of pods alone: OCTAVO_KEEP_FIGURES=1 pytest e2e/test_groups.py measures those.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import AsyncResult
from pathlib import Path

import msgspec
import numpy as np
import torch
from e2e.figures import keep_rows

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from octavo_engine.messages import SequenceStart, SequenceStep, StepInput
from octavo_engine.runner.inputs import InputBuilder
from octavo_engine.runner.kernels.ops import torch_operators
from octavo_engine.runner.parallel.launcher import LocalLauncher
from octavo_engine.runner.parallel.ring import RingReader, RingWriter
from octavo_engine.runner.parallel.runner import ParallelRunner
from octavo_engine.runner.parallel.wire import Step
from octavo_engine.runner.rows import RowTable
from octavo_engine.sampling_params import SamplingParams

RESULTS = Path(__file__).resolve().parent / "results" / "engine-parallel-cpu.json"
SEQUENCES, MESSAGES, GAP_SECONDS = 256, 400, 0.002
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
Figure = tuple[str, float, str, str]  # name, value, unit, what was done


def decodes(step_id: int = 0) -> StepInput:
    steps = [SequenceStep(i, 600 + step_id, 1, True, []) for i in range(SEQUENCES)]
    return StepInput(step_id, [], [], [], [], [], [], steps)


def listen(path: str, reader: int) -> list[float]:
    """The times at which messages came; the first one only says that everybody is there."""
    ring = RingReader(path, reader)
    times = []
    for _ in range(MESSAGES + 1):
        assert ring.receive(60) is not None
        times.append(time.monotonic())
    return times[1:]


def told_us(readers: int) -> float:
    """Median microseconds from a step's encoding to its being in the slowest of ``readers`` processes."""
    ring, encode = RingWriter(readers), msgspec.msgpack.Encoder().encode
    with multiprocessing.get_context("spawn").Pool(readers) as pool:
        heard: list[AsyncResult[list[float]]] = [
            pool.apply_async(listen, (str(ring.path), i)) for i in range(readers)
        ]
        ring.send(b"begin")
        while not ring._slowest():  # until all processes are up
            time.sleep(GAP_SECONDS)
        sent = []
        for i in range(MESSAGES):
            time.sleep(GAP_SECONDS)
            sent.append(time.monotonic())
            ring.send(encode(Step(decodes(i))))
        latest = np.max([found.get(60) for found in heard], axis=0)
    ring.unlink()
    return 1e6 * float(np.median(latest - np.array(sent)))


def tell_us() -> float:
    """Median microseconds that telling a step takes of the core's own time."""
    ring, encode, times = RingWriter(0), msgspec.msgpack.Encoder().encode, []
    for i in range(MESSAGES):
        step = decodes(i)
        began = time.perf_counter()
        ring.send(encode(Step(step)))
        times.append(time.perf_counter() - began)
    ring.unlink()
    return 1e6 * statistics.median(times)


def prepare_us() -> float:
    """Median microseconds in which a rank reads a step and lays out its inputs."""
    rows = RowTable(2048, 16, 0)
    for i in range(SEQUENCES):
        blocks = list(range(40 * i, 40 * i + 40))
        rows.start(SequenceStart(i, [5] * 600, 600, SamplingParams(), blocks, 0))
    device = torch.device("cpu")
    builder = InputBuilder(16, 0, (None,), device, torch_operators(device))
    decode, data, times = msgspec.msgpack.Decoder(Step).decode, msgspec.msgpack.encode(Step(decodes())), []
    for _ in range(MESSAGES):
        began = time.perf_counter()
        builder.lay_out(rows, decode(data).step.sequences)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def group_seconds(tensor: int) -> tuple[float, float]:
    """(start of a group of ranks to all of them ready, SIGKILL of one to the others' end)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        config = EngineConfig(
            model=ModelConfig(source=folder, load_format="dummy", device="cpu", dtype="float32"),
            cache=CacheConfig(num_blocks=64),
            parallel=ParallelConfig(tensor=tensor),
        )
        launcher, lost = LocalLauncher(tensor), threading.Event()
        runner = ParallelRunner(config, launcher)
        runner.on_failure(lambda error: lost.set())
        began = time.monotonic()
        runner.load()
        runner.allocate(*runner.profile_blocks())
        start = time.monotonic() - began
        os.kill(launcher._processes[1].pid, signal.SIGKILL)
        began = time.monotonic()
        assert lost.wait(30)
        seconds = time.monotonic() - began
        runner.shutdown()
        return start, seconds


def figures(runs: int) -> Iterator[Figure]:
    def middle(measure: Callable[[], float]) -> float:
        return statistics.median(measure() for _ in range(runs))

    what = f"a step of {SEQUENCES} decodes"
    yield "step_tell_us", middle(tell_us), "us", f"{what}: the core's time to encode it and write it down"
    for readers in (1, 2, 4):
        yield f"step_told_us.{readers}", middle(partial(told_us, readers)), "us", f"{what} is with every rank"
    yield "step_prepare_us", middle(prepare_us), "us", f"{what}: a rank decodes it and lays out its inputs"
    for tensor in (2, 4):
        found = [group_seconds(tensor) for _ in range(runs)]
        start, lost = (statistics.median(times) for times in zip(*found, strict=True))
        yield (
            f"group_start_s.{tensor}",
            start,
            "s",
            f"{tensor} ranks, a tiny model; with torch's import",
        )
        yield f"rank_lost_s.{tensor}", lost, "s", f"SIGKILL of one of {tensor} ranks to the end of the others"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    common = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"
    rows = []
    for figure, value, unit, what in figures(runs):
        conditions = f"{what}; {common}, median of {runs} runs"
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "conditions": conditions})
        print(f"{figure:24} {value:12.3f} {unit}", flush=True)
    keep_rows(RESULTS, rows)


if __name__ == "__main__":
    main()
