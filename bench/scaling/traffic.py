"""Requests over time: synthetic shapes, and recorded ones from a file."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Traffic:
    """Arrival times in seconds, ascending, and the tokens of each request's prompt and answer."""

    name: str
    arrivals: NDArray[np.float64]
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        return float(self.arrivals[-1])


def steps(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tenth, all, a third, and a tenth of the load."""
    return np.select([t < 0.2, t < 0.5, t < 0.75], [0.1, 1.0, 0.33], 0.1)


def bursts(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """A quarter of the load, and every tenth of the time all of it for a sixtieth."""
    return np.where((t * 10) % 1 < 1 / 6, 1.0, 0.25)


def diurnal(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two days, compressed."""
    return 0.05 + 0.95 * (0.5 - 0.5 * np.cos(4 * np.pi * t)) ** 2


SHAPES: dict[str, Shape] = {"steps": steps, "bursts": bursts, "diurnal": diurnal}


def synthetic(name: str, peak_per_second: float, seconds: float, seed: int = 0) -> Traffic:
    """Poisson arrivals of a shape; lengths are log-normal, at the mean 700 tokens in and 250 out."""
    draw = np.random.default_rng(seed)
    at = np.sort(draw.uniform(0, seconds, draw.poisson(peak_per_second * seconds)))
    kept = at[draw.uniform(size=len(at)) < SHAPES[name](at / seconds)]
    prompts, outputs = (
        np.maximum(1, draw.lognormal(np.log(mean) - 0.32, 0.8, len(kept))).astype(np.int64)
        for mean in (700, 250)
    )
    return Traffic(name, kept, prompts, outputs)


def recorded(path: Path, times: int = 1) -> Traffic:
    """Rows of (timestamp, prompt tokens, output tokens) under a line of names, each ``times`` over."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    at = np.array([_seconds(row[0]) for row in rows])
    order = np.argsort(at, kind="stable")
    prompts, outputs = (np.array([int(row[i]) for row in rows])[order] for i in (1, 2))
    shift = np.random.default_rng(0).uniform(-5, 5, (times, len(at)))
    all_at = np.clip(at[order] - at.min() + shift, 0, None).ravel()
    again = np.argsort(all_at, kind="stable")
    lengths = [np.tile(np.maximum(1, tokens), times)[again] for tokens in (prompts, outputs)]
    return Traffic(f"{path.stem}_x{times}", all_at[again], *lengths)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text[:26]).timestamp()
