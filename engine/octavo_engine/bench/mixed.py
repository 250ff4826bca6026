"""``octavo-engine bench mixed``: what a stream of long prompts does to those who are being answered."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from octavo_engine.bench.serve import spread
from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError
from octavo_engine.messages import AddRequest
from octavo_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Mixture:
    """``streams`` answers under way, and ``prompts`` of ``prompt_len`` tokens in the queue at any time."""

    streams: int
    prompts: int
    prompt_len: int
    input_len: int  # tokens of the streams' own prompts
    tokens: int  # that each stream gains in each of the two phases
    vocab_size: int
    seed: int = 0


@dataclass(slots=True)
class _Phase:
    """Seconds between the tokens of each stream, and how many tokens of prompts were computed meanwhile."""

    gaps: list[float] = field(default_factory=list)
    prompts: int = 0
    seconds: float = 0.0


def measure_mixed(core: EngineCore, mixture: Mixture) -> dict[str, Any]:
    """Times between tokens in milliseconds, first undisturbed, then under the stream of prompts.

    ``tpot_p99_ratio`` is the latter's 99th percentile over the former's. ``core`` is started and idle.
    """
    run = _Run(core, mixture)
    idle = run.phase(prompts=0)
    loaded = run.phase(prompts=mixture.prompts)
    run.end()
    return {
        "streams": mixture.streams,
        "idle_tpot_ms": spread(idle.gaps),
        "loaded_tpot_ms": spread(loaded.gaps),
        "tpot_p99_ratio": spread(loaded.gaps)["p99"] / spread(idle.gaps)["p99"],
        "prompt_tokens_per_s": loaded.prompts * mixture.prompt_len / loaded.seconds,
    }


class _Run:
    def __init__(self, core: EngineCore, mixture: Mixture) -> None:
        self._core, self._mixture = core, mixture
        self._names = self._numbered()
        self._draw = random.Random(mixture.seed)
        self._streams = [self._add(mixture.input_len, 4 * mixture.tokens) for _ in range(mixture.streams)]
        self._last: dict[str, float] = {}
        while len(self._last) < mixture.streams:
            self._step()

    def phase(self, prompts: int) -> _Phase:
        """Until each stream has gained its tokens, with so many prompts waiting or being computed."""
        found, queued = _Phase(), {self._add(self._mixture.prompt_len, 1) for _ in range(prompts)}
        began = time.perf_counter()
        while len(found.gaps) < self._mixture.streams * self._mixture.tokens:
            gaps, ended = self._step()
            found.gaps += gaps
            for name in ended & queued:
                found.prompts += 1
                queued.remove(name)
                queued.add(self._add(self._mixture.prompt_len, 1))
        found.seconds = time.perf_counter() - began
        self._core.abort(queued)
        return found

    def end(self) -> None:
        self._core.abort(self._streams)
        while self._core.has_work():
            self._core.step()

    def _step(self) -> tuple[list[float], set[str]]:
        """The gaps that the streams' new tokens ended, and the requests that are complete."""
        outputs = self._core.step().outputs
        now = time.perf_counter()
        gaps, ended = [], set()
        for output in outputs:
            if output.error is not None:
                raise EngineError(output.error)
            if output.finish_reason is not None:
                ended.add(output.request_id)
            if output.request_id in self._streams:
                if output.request_id in self._last:
                    gaps.append(now - self._last[output.request_id])
                self._last[output.request_id] = now
        return gaps, ended

    def _add(self, length: int, max_tokens: int) -> str:
        name = next(self._names)
        prompt = self._draw.choices(range(self._mixture.vocab_size), k=length)
        params = SamplingParams(temperature=1.0, max_tokens=max_tokens, ignore_eos=True)
        self._core.add(AddRequest(name, prompt, params, arrival_time=0.0))
        return name

    def _numbered(self) -> Iterator[str]:
        began = time.perf_counter_ns()
        number = 0
        while True:
            yield f"mixed-{began}-{number}"
            number += 1
