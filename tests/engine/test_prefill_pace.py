"""Prompts beside decodes: bounded by what decodes alone take, on simulated machines."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from octavo_engine.prefill_pace import PrefillPace

Machine = Callable[[int, int], float]  # seconds of a step of (decodes, tokens of prompts)


def gpu(decodes: int, prompt_tokens: int) -> float:
    """Bound by reading weights and cache, or by arithmetic."""
    attention = 25e-6 * decodes
    return max(5.2e-3, 22e-6 * (decodes + prompt_tokens)) + attention + 0.3e-3


def cpu(decodes: int, prompt_tokens: int) -> float:
    return 60e-3 + 2e-3 * decodes + 1.5e-3 * prompt_tokens


@dataclass
class Run:
    """Steps with prompts always waiting; ``decodes`` for each step."""

    machine: Machine
    pace: PrefillPace
    budget: int = 2048
    waiting: int = 2
    ratios: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    seconds: float = 0.0

    def steps(self, count: int, decodes: Callable[[int], int], draw: random.Random) -> None:
        for step in range(count):
            now = decodes(step)
            limit = self.pace.limit(now, self.waiting)
            tokens = self.budget if limit is None else min(limit, self.budget)
            if draw.random() < 0.2:
                tokens = min(tokens, 40)  # the end of a prompt
            seconds = self.machine(now, tokens) * draw.uniform(0.97, 1.03)
            self.pace.note(now, tokens, seconds)
            self.ratios.append(seconds / self.machine(now, 0))
            self.prompt_tokens += tokens
            self.seconds += seconds


@pytest.mark.parametrize("machine", [gpu, cpu])
@pytest.mark.parametrize("decodes", [1, 8, 60, 250])
def test_steps_beside_decodes_stay_within_twice_their_time_alone(machine: Machine, decodes: int) -> None:
    run = Run(machine, PrefillPace(2.0))
    draw = random.Random(decodes)
    run.pace.note(0, 2048, machine(0, 2048))
    run.steps(30, lambda _: decodes, draw)
    run.ratios.clear()
    run.steps(600, lambda _: decodes, draw)
    bound = max(2.0, machine(decodes, 64) / machine(decodes, 0) * 1.05)  # the fewest tokens may be too many
    assert sorted(run.ratios)[int(0.99 * len(run.ratios))] <= bound


@pytest.mark.parametrize("decodes", [8, 60, 250])
def test_prompts_still_come_through_at_most_of_the_machines_rate(decodes: int) -> None:
    draw, bounded, free = random.Random(1), Run(gpu, PrefillPace(2.0)), Run(gpu, PrefillPace(0))
    for run in (bounded, free):
        run.pace.note(0, 2048, gpu(0, 2048))
        run.steps(400, lambda _: decodes, draw)
    decoded = decodes * 400
    work = [(run.prompt_tokens + decoded) / run.seconds for run in (bounded, free)]
    assert work[0] > 0.6 * work[1]


def test_a_growing_batch_is_not_held_to_the_time_of_a_small_one() -> None:
    """From 1 to 250 decodes under a constant stream of prompts, without ever a step of decodes by itself."""
    run = Run(gpu, PrefillPace(2.0))
    run.steps(20, lambda _: 1, random.Random(0))
    run.steps(500, lambda step: 1 + step // 2, random.Random(0))
    before = run.prompt_tokens
    run.steps(100, lambda _: 250, random.Random(0))
    assert (run.prompt_tokens - before) / 100 > 200


def test_without_a_reading_decodes_are_looked_at_alone_and_again_after_a_while() -> None:
    pace = PrefillPace(2.0)
    assert pace.limit(4, 1) is None, "nothing was measured yet"
    pace.note(0, 1000, 0.02)
    assert pace.limit(4, 1) == 0
    pace.note(4, 0, 0.006)
    limits = []
    for _ in range(70):
        limits.append(pace.limit(4, 1))
        pace.note(4, limits[-1] or 0, 0.010 if limits[-1] else 0.006)
    assert limits.count(0) == 1
    assert all(limit is not None and limit >= 64 for limit in limits if limit)


def test_no_bound_when_it_is_turned_off_or_nobody_decodes() -> None:
    pace = PrefillPace(0)
    pace.note(4, 0, 0.006)
    assert pace.limit(4, 1) is None
    assert PrefillPace(2.0).limit(0, 1) is None


def test_one_step_that_took_very_long_does_not_stop_prompts() -> None:
    run = Run(gpu, PrefillPace(2.0))
    run.steps(100, lambda _: 8, random.Random(0))
    usual = run.pace.limit(8, 1)
    run.pace.note(8, usual or 1, 30.0)
    run.steps(40, lambda _: 8, random.Random(0))
    assert usual is not None
    found = [run.pace.limit(8, 1) or 0, (run.pace.note(8, 0, gpu(8, 0)), run.pace.limit(8, 1) or 0)[1]]
    assert max(found) > 0.5 * usual


def test_the_more_prompts_wait_the_more_is_computed_of_them() -> None:
    run = Run(gpu, PrefillPace(2.0))
    run.steps(100, lambda _: 8, random.Random(0))
    limits = [run.pace.limit(8, waiting) for waiting in (1, 4, 6, 12, 33)]
    assert limits[0] == limits[1]
    assert limits[-1] is None
    bounded = [limit or 0 for limit in limits[1:-1]]
    assert bounded == sorted(set(bounded))


def test_prompts_that_seemed_to_cost_nothing_are_taken() -> None:
    pace = PrefillPace(2.0)
    pace.note(4, 0, 0.006)
    pace.note(4, 100, 0.006)
    assert (pace.limit(4, 1) or 0) >= 100
