"""Compare signals and behaviours: `python -m bench.scaling [--trace FILE --times N] [--short]`.

Prints and keeps in bench/results/scaling.json, for each traffic and each way: requests whose first token took
longer than a second (%), GPU-hours, and flaps (changes of direction within ten minutes).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.scaling.fleet import STEP, Engine, Fleet
from bench.scaling.hpa import SYNC_SECONDS, Autoscaler, Behavior, Policy
from bench.scaling.traffic import SHAPES, Traffic, recorded, synthetic

RESULT = Path(__file__).resolve().parents[1] / "results" / "scaling.json"
TARGET_SECONDS = 1.0
FLAP_SECONDS = 600
PER_POD = 20.0  # requests a second that one pod carries, about
SIGNALS: dict[str, dict[str, float]] = {
    "queueDepth 10": {"queueDepth": 10},
    "kvCacheUsage 0.8": {"kvCacheUsage": 0.8},
    "queueDepth 10, kvCacheUsage 0.8": {"queueDepth": 10, "kvCacheUsage": 0.8},
    "concurrency 32": {"concurrency": 32},
    "concurrency 64": {"concurrency": 64},
    "concurrency 64, kvCacheUsage 0.8": {"concurrency": 64, "kvCacheUsage": 0.8},
    "concurrency 128, kvCacheUsage 0.8": {"concurrency": 128, "kvCacheUsage": 0.8},
}
GENTLE = (Policy(60, percent=10), Policy(60, pods=1))
BEHAVIORS = {
    "the HPA's own": Behavior(),
    "down 120 s": Behavior(down_window=120),
    "down gently": Behavior(down_window=120, down=GENTLE),
    "down 300 s, gently": Behavior(down=GENTLE),
    "down 600 s": Behavior(down_window=600),
}

BEST = "concurrency 64, kvCacheUsage 0.8"
KEPT = {
    ("queueDepth 10, kvCacheUsage 0.8", "the HPA's own"): "queue",
    (BEST, "the HPA's own"): "concurrency",
    (BEST, "down 300 s, gently"): "default",
}


@dataclass(frozen=True)
class Outcome:
    late_percent: float
    gpu_hours: float
    flaps: int
    most_pods: int


def simulate(traffic: Traffic, targets: dict[str, float], behavior: Behavior, most: int) -> Outcome:
    fleet = Fleet(Engine(), traffic.prompts, traffic.outputs)
    fleet.scale(1, 0.0, start=0.0)
    scaler = Autoscaler(targets, 1, most, behavior)
    replicas, sent, hours, history = [1], 0, 0.0, []
    for index in range(int(traffic.seconds / STEP) + 1):
        now = index * STEP
        until = int(np.searchsorted(traffic.arrivals, now, side="right"))
        fleet.step(now, range(sent, until))
        sent = until
        hours += len(fleet.pods) * STEP / 3600
        if index % int(SYNC_SECONDS / STEP) == 0:
            fleet.scale(scaler.step(now, fleet.wanted, fleet.metrics(now)), now)
            if fleet.wanted != replicas[-1]:
                history.append((now, fleet.wanted - replicas[-1]))
            replicas.append(fleet.wanted)
    late = ~(fleet.first_tokens - traffic.arrivals <= TARGET_SECONDS)  # one without a first token is late
    return Outcome(100 * float(late.mean()), hours, flaps(history), max(replicas))


def flaps(history: list[tuple[float, int]]) -> int:
    """Changes against the direction of the one before, within ten minutes of it."""
    pairs = itertools.pairwise(history)
    return sum(a[1] * b[1] < 0 and b[0] - a[0] < FLAP_SECONDS for a, b in pairs)


def traffics(arguments: argparse.Namespace) -> Iterator[tuple[Traffic, int]]:
    """(traffic, most pods)."""
    if arguments.trace:
        yield recorded(arguments.trace, arguments.times), 200
        return
    for pods, seconds in ((4, 1800),) if arguments.short else ((4, 7200), (50, 1800)):
        for name in SHAPES:
            yield synthetic(name, PER_POD * pods, seconds), 4 * pods


def ways() -> Iterator[tuple[str, str]]:
    yield from ((signal, "the HPA's own") for signal in SIGNALS)
    yield from ((BEST, behavior) for behavior in BEHAVIORS if behavior != "the HPA's own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="CSV of timestamp, prompt tokens, output tokens")
    parser.add_argument("--times", type=int, default=1, help="the trace so many times over")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for traffic, most in traffics(arguments):
        what = f"{len(traffic.arrivals)} requests in {traffic.seconds:.0f} s, at most {most} pods"
        print(f"{traffic.name}: {what}")
        for signal, behavior in ways():
            found = simulate(traffic, SIGNALS[signal], BEHAVIORS[behavior], most)
            print(
                f"  {signal:36} {behavior:20} late {found.late_percent:6.2f}%"
                f"  {found.gpu_hours:8.2f} GPU-hours  {found.flaps:3d} flaps  {found.most_pods:3d} pods",
                flush=True,
            )
            if (name := KEPT.get((signal, behavior))) is not None:
                rows += kept(f"{traffic.name}.{most}.{name}", found, f"{what}; {signal}; {behavior}")
    if not arguments.short:
        keep(rows)


def kept(name: str, found: Outcome, conditions: str) -> Iterator[dict[str, object]]:
    for figure, value, unit in (
        ("late", found.late_percent, "%"),
        ("gpu_hours", found.gpu_hours, "h"),
        ("flaps", found.flaps, "flaps"),
    ):
        row = {"figure": f"{figure}.{name}", "value": round(value, 3), "unit": unit}
        yield {**row, "conditions": f"simulated; {conditions}"}


def keep(rows: list[dict[str, object]]) -> None:
    """Replace the figures measured now, leave the others."""
    fresh = {row["figure"] for row in rows}
    former = json.loads(RESULT.read_text()) if RESULT.exists() else []
    RESULT.write_text(
        json.dumps([row for row in former if row["figure"] not in fresh] + rows, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
