"""``octavo-engine bench throughput|latency``: random prompts into an engine core, without HTTP or text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from octavo_engine.bench.serve import Load, Trace, spread, summarize
from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError
from octavo_engine.messages import AddRequest, SequenceOutput
from octavo_engine.sampling_params import SamplingParams


def measure_throughput(core: EngineCore, load: Load) -> dict[str, Any]:
    """Answer the whole load, at most ``max_concurrency`` requests at once.

    Returns rates, and percentiles in milliseconds. ``core`` has been started and is idle.
    Errors: EngineError when a request is refused or fails.
    """
    traces, seconds = _answer(core, load)
    return summarize(traces, seconds, load)


def measure_latency(core: EngineCore, load: Load, *, runs: int, warmup_runs: int = 1) -> dict[str, Any]:
    """Answer the load ``runs`` times; ``batch_ms`` is the spread of the times that the whole load took.

    Each run has prompts of its own, so that no run finds another's prefixes in the cache.
    """
    batches = [_answer(core, replace(load, seed=load.seed + run)) for run in range(warmup_runs + runs)][
        warmup_runs:
    ]
    traces = [trace for batch, _ in batches for trace in batch]
    return {
        "batch_size": load.num_prompts,
        "runs": runs,
        "batch_ms": spread([seconds for _, seconds in batches]),
        "ttft_ms": spread([trace.ttft for trace in traces]),
        "tpot_ms": spread([trace.tpot for trace in traces if trace.tpot is not None]),
    }


def _answer(core: EngineCore, load: Load) -> tuple[list[Trace], float]:
    """A trace of every request, and the seconds that all took."""
    params = SamplingParams(temperature=1.0, max_tokens=load.output_len, ignore_eos=True)
    queue = _requests(load, params)
    traces: dict[str, Trace] = {}
    running: set[str] = set()
    began = time.perf_counter()
    while True:
        for request in islice(queue, load.max_concurrency - len(running)):
            traces[request.request_id] = Trace(time.perf_counter())
            running.add(request.request_id)
            core.add(request)
        if not running:
            return list(traces.values()), time.perf_counter() - began
        for output in core.step().outputs:
            _note(traces[output.request_id], output)
            if output.finish_reason is not None:
                running.remove(output.request_id)


def _requests(load: Load, params: SamplingParams) -> Iterator[AddRequest]:
    for number, prompt in enumerate(load.prompts()):
        yield AddRequest(f"bench-{number}", prompt, params, arrival_time=0.0)


def _note(trace: Trace, output: SequenceOutput) -> None:
    if output.error is not None:
        raise EngineError(output.error)
    trace.arrivals.append(time.perf_counter())
    trace.output_tokens += len(output.token_ids)
