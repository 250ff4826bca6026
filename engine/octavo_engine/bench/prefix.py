"""``octavo-engine bench prefix``: the time to a first token with and without a shared prefix in the cache."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError
from octavo_engine.messages import AddRequest
from octavo_engine.sampling_params import SamplingParams


def measure_prefix(
    core: EngineCore, *, clients: int, prefix_len: int, own_len: int, vocab_size: int, runs: int
) -> dict[str, Any]:
    """``clients`` prompts at once: medians over all requests of ``runs``, after one run to warm up.

    ``core`` has been started and is idle.
    """
    draw = random.Random(time.perf_counter_ns())  # no run finds another's prompts in the cache
    cold: list[float] = []
    warm: list[float] = []
    for run in range(runs + 1):
        shared = draw.choices(range(vocab_size), k=prefix_len)
        alone = [draw.choices(range(vocab_size), k=prefix_len + own_len) for _ in range(clients)]
        together = [shared + draw.choices(range(vocab_size), k=own_len) for _ in range(clients)]
        first = _ttfts(core, alone)
        _ttfts(core, [shared])
        second = _ttfts(core, together)
        if run:
            cold += first
            warm += second
    before, after = statistics.median(cold), statistics.median(warm)
    return {
        "clients": clients,
        "cold_ttft_ms": 1e3 * before,
        "cached_ttft_ms": 1e3 * after,
        "prefix_ttft_ratio": before / after,
    }


def _ttfts(core: EngineCore, prompts: list[list[int]]) -> list[float]:
    """Seconds to the one token that each asks for."""
    params = SamplingParams(temperature=1.0, max_tokens=1, ignore_eos=True)
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        core.add(AddRequest(f"prefix-{began}-{number}", prompt, params, arrival_time=0.0))
    found = []
    while core.has_work():
        for output in core.step().outputs:
            if output.error is not None:
                raise EngineError(output.error)
            found.append(time.perf_counter() - began)
    return found
