"""What is aimed at (bench/figures.csv) and what was measured (bench/results/*.json)."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Aim:
    """One row of figures.csv: what is aimed at, and what the peer reaches."""

    group: str
    figure: str
    unit: str
    better: str  # "lower" or "higher"
    aim: str
    peer: str

    def met_by(self, value: float) -> bool:
        return value <= float(self.aim) if self.better == "lower" else value >= float(self.aim)


@dataclass(frozen=True)
class Measured:
    """One entry of a results file: a median and the conditions it was measured under."""

    figure: str
    value: float
    unit: str
    conditions: str


def number(value: float) -> str:
    """Four digits, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _peer(row: dict[str, str]) -> str:
    return f"{row['peer']} {row['peer_name']}".strip()


def read_aims(path: Path = ROOT / "figures.csv") -> list[Aim]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [
            Aim(*(row[name] for name in ("file", "figure", "unit", "better", "aim")), peer=_peer(row))
            for row in rows
        ]


def read_results(folder: Path = ROOT / "results") -> dict[str, list[Measured]]:
    """Group -> measured figures, in the order of the files."""
    return {
        path.stem: [Measured(**row) for row in json.loads(path.read_text())]
        for path in sorted(folder.glob("*.json"))
    }


def split_peers(results: list[Measured]) -> tuple[list[Measured], dict[str, str]]:
    """Own figures, and what peers reached in the same run, which is named `PEER: FIGURE`, by figure."""
    own, peers = [], {}
    for found in results:
        name, colon, figure = found.figure.rpartition(": ")
        if colon:
            shown = f"{number(found.value)} {name}, same run"
            peers[figure] = f"{peers[figure]}; {shown}" if figure in peers else shown
        else:
            own.append(found)
    return own, peers
