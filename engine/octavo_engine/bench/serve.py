"""``octavo-engine bench serve``: random prompts against a running server, and what its clients felt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo_engine.client import exchange
from octavo_engine.errors import EngineError

_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: prompts of ``input_len`` random tokens, each asking for ``output_len`` more."""

    num_prompts: int
    input_len: int
    output_len: int
    max_concurrency: int
    request_rate: float  # requests a second, with exponential gaps; 0: as fast as concurrency allows
    vocab_size: int
    seed: int = 0

    def prompts(self) -> Iterator[list[int]]:
        draw = random.Random(self.seed)
        for _ in range(self.num_prompts):
            yield [draw.randrange(self.vocab_size) for _ in range(self.input_len)]

    def gaps(self) -> Iterator[float]:
        """Seconds between one request and the next."""
        draw = random.Random(self.seed + 1)
        for _ in range(self.num_prompts):
            yield draw.expovariate(self.request_rate) if self.request_rate else 0.0


@dataclass(slots=True)
class Trace:
    """One request as its client saw it; times in seconds of time.perf_counter()."""

    sent: float
    arrivals: list[float] = field(default_factory=list)  # of chunks with text
    output_tokens: int = 0
    error: str | None = None

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def e2e(self) -> float:
        return self.arrivals[-1] - self.sent

    @property
    def tpot(self) -> float | None:
        """Mean seconds between tokens after the first."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def run_load(base_url: str, model: str, load: Load, api_key: str | None = None) -> dict[str, Any]:
    """Send the load and summarize it. A request that fails is counted, not raised."""
    slots = asyncio.Semaphore(load.max_concurrency)
    began = time.perf_counter()
    tasks = []
    for prompt, gap in zip(load.prompts(), load.gaps(), strict=True):
        await slots.acquire()
        task = asyncio.create_task(_trace(base_url, _body(model, prompt, load), api_key))
        task.add_done_callback(lambda _: slots.release())
        tasks.append(task)
        await asyncio.sleep(gap)
    traces = await asyncio.gather(*tasks)
    return summarize(traces, time.perf_counter() - began, load)


def _body(model: str, prompt: list[int], load: Load) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": load.output_len,
        "ignore_eos": True,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _trace(base_url: str, body: dict[str, Any], api_key: str | None) -> Trace:
    trace = Trace(time.perf_counter())
    try:
        async with exchange(base_url, "/v1/completions", body, api_key) as reply:
            async for event in reply.events():
                if event["choices"]:
                    trace.arrivals.append(time.perf_counter())
                elif event.get("usage"):
                    trace.output_tokens = event["usage"]["completion_tokens"]
    except EngineError as error:
        trace.error = str(error)
    return trace


def summarize(traces: Sequence[Trace], seconds: float, load: Load) -> dict[str, Any]:
    """Rates over the whole run, and percentiles in milliseconds; requests that failed count in neither."""
    done = [trace for trace in traces if trace.error is None and trace.arrivals]
    errors = [trace.error for trace in traces if trace.error is not None]
    output_tokens = sum(trace.output_tokens for trace in done)
    return {
        "completed": len(done),
        "failed": len(traces) - len(done),
        "first_error": errors[0] if errors else None,
        "duration_s": seconds,
        "requests_per_s": len(done) / seconds,
        "output_tokens_per_s": output_tokens / seconds,
        "total_tokens_per_s": (output_tokens + len(done) * load.input_len) / seconds,
        "ttft_ms": spread([trace.ttft for trace in done]),
        "tpot_ms": spread([trace.tpot for trace in done if trace.tpot is not None]),
        "itl_ms": spread([gap for trace in done for gap in trace.gaps]),
        "e2e_ms": spread([trace.e2e for trace in done]),
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles (nearest rank), in milliseconds; empty without values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    ranks = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] * 1e3 for p in _PERCENTILES}
    return {"mean": sum(ordered) / len(ordered) * 1e3, **ranks}
