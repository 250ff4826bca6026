"""Compare signals and behaviours: `python -m bench.scaling [--trace FILE --times N] [--short]`.

Prints and keeps in bench/results/scaling.json, for each traffic and each way: requests whose first token took
longer than a second (%), GPU-hours, and flaps (changes of direction within ten minutes). Recorded traffic is
not in the repository: docs/performance.md names what was used.
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
    "queue10": {"queueDepth": 10},
    "kv0.8": {"kvCacheUsage": 0.8},
    "queue10_kv0.8": {"queueDepth": 10, "kvCacheUsage": 0.8},
    "concurrency64": {"concurrency": 64},
    "concurrency32_kv0.8": {"concurrency": 32, "kvCacheUsage": 0.8},
    "concurrency48_kv0.8": {"concurrency": 48, "kvCacheUsage": 0.8},
    "concurrency64_kv0.8": {"concurrency": 64, "kvCacheUsage": 0.8},
    "concurrency96_kv0.8": {"concurrency": 96, "kvCacheUsage": 0.8},
    "concurrency128_kv0.8": {"concurrency": 128, "kvCacheUsage": 0.8},
}
GENTLE = (Policy(60, percent=10), Policy(60, pods=1))
BEHAVIORS = {
    "hpa": Behavior(),
    "down120": Behavior(down_window=120),
    "down120_gently": Behavior(down_window=120, down=GENTLE),
    "down300_gently": Behavior(down=GENTLE),
    "down600": Behavior(down_window=600),
    "down600_gently": Behavior(down_window=600, down=GENTLE),
    "up30_down300_gently": Behavior(up_window=30, down=GENTLE),
}
DEFAULT = ("concurrency64_kv0.8", "down300_gently")
"""The chart's `operator.scalingDefaults`."""
PAIRS = [
    (f"concurrency{target}_kv0.8", behavior)
    for target in (32, 48, 96, 128)
    for behavior in ("down120_gently", "down600_gently")
]
"""Ways that change two things of it."""


@dataclass(frozen=True)
class Outcome:
    late_percent: float
    gpu_hours: float
    flaps: int
    most_pods: int

    def __str__(self) -> str:
        return f"{self.gpu_hours:.2f} GPU-hours; {self.flaps} flaps; {self.most_pods} pods at its height"


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
        fleet.scrape(now)  # after the HPA has asked: what it hears is as old as it can be
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


def ways() -> list[tuple[str, str]]:
    """The default, what changes one thing of it, and what changes two."""
    signal, behavior = DEFAULT
    behaviors = [(signal, each) for each in BEHAVIORS if each != behavior]
    return [(each, behavior) for each in SIGNALS] + behaviors + PAIRS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="CSV of timestamp, prompt tokens, output tokens")
    parser.add_argument("--times", type=int, default=1, help="the trace so many times over")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    for traffic, most in traffics(arguments):
        what = f"{len(traffic.arrivals)} requests in {traffic.seconds:.0f} s"
        print(f"{traffic.name}, at most {most} pods: {what}")
        rows = []
        for signal, behavior in ways():
            found = simulate(traffic, SIGNALS[signal], BEHAVIORS[behavior], most)
            rows.append(row(f"{traffic.name}.{most}.{signal}.{behavior}", found, what))
            print(f"  {signal:21} {behavior:20} late {found.late_percent:6.2f}%  {found}", flush=True)
        if not arguments.short:
            keep(f"late.{traffic.name}.{most}.", rows)


def row(name: str, found: Outcome, what: str) -> dict[str, object]:
    value = {"figure": f"late.{name}", "value": round(found.late_percent, 3), "unit": "%"}
    return {**value, "conditions": f"simulated; {found}; {what}"}


def keep(prefix: str, rows: list[dict[str, object]]) -> None:
    """Replace the rows of the traffic simulated now, leave the others."""
    former = json.loads(RESULT.read_text()) if RESULT.exists() else []
    others = [found for found in former if not found["figure"].startswith(prefix)]
    RESULT.write_text(json.dumps(others + rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
