"""``octavo-engine bench serve``: random prompts against a running server, and what its clients felt."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from octavo_engine.client import exchange
from octavo_engine.errors import EngineError

_PERCENTILES = (50, 90, 99)
_CLIENTS_OF_A_PROCESS = 64  # whose streams one process reads without falling behind


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

    def shares(self, processes: int) -> list[Load]:
        """The load in about equal parts, with random prompts of their own."""
        count = max(1, min(processes, self.num_prompts, self.max_concurrency))
        return [
            replace(
                self,
                num_prompts=_part(self.num_prompts, i, count),
                max_concurrency=_part(self.max_concurrency, i, count),
                request_rate=self.request_rate / count,
                seed=self.seed + 2 * i,
            )
            for i in range(count)
        ]

    def prompts(self) -> Iterator[list[int]]:
        draw = random.Random(self.seed)
        for _ in range(self.num_prompts):
            yield draw.choices(range(self.vocab_size), k=self.input_len)

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


def run_load(base_url: str, model: str, load: Load, api_key: str | None = None) -> dict[str, Any]:
    """Send the load from as many processes as it takes to not be the limit itself, and summarize it.

    A request that fails is counted, not raised.
    """
    shares = load.shares(-(-load.max_concurrency // _CLIENTS_OF_A_PROCESS))
    if len(shares) == 1:
        traces = _run_share(base_url, model, shares[0], api_key)
    else:
        with _pool(len(shares)) as pool:
            list(pool.map(_ready, shares))
            parts = [pool.submit(_run_share, base_url, model, share, api_key) for share in shares]
            traces = [trace for part in parts for trace in part.result()]
    began = min(trace.sent for trace in traces)
    ended = max((trace.arrivals[-1] for trace in traces if trace.arrivals), default=began)
    return summarize(traces, max(ended - began, 1e-9), load)


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def _ready(_share: Load) -> float:
    """Its answer comes from a process that has imported everything."""
    time.sleep(0.2)  # so that one quick process does not take all of these
    return time.perf_counter()


def _run_share(base_url: str, model: str, load: Load, api_key: str | None) -> list[Trace]:
    return asyncio.run(_send(base_url, model, load, api_key))


async def _send(base_url: str, model: str, load: Load, api_key: str | None) -> list[Trace]:
    slots = asyncio.Semaphore(load.max_concurrency)
    tasks = []
    for prompt, gap in zip(load.prompts(), load.gaps(), strict=True):
        await slots.acquire()
        task = asyncio.create_task(_trace(base_url, _body(model, prompt, load), api_key))
        task.add_done_callback(lambda _: slots.release())
        tasks.append(task)
        await asyncio.sleep(gap)
    return list(await asyncio.gather(*tasks))


def _part(whole: int, index: int, count: int) -> int:
    return whole * (index + 1) // count - whole * index // count


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
