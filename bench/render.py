"""Renders docs/performance.md's tables from bench/figures.csv (aims, peers) and bench/results/*.json.

Usage: python bench/render.py [--check]. Only the part between the page's two markers is written.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PAGE = ROOT.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


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
            shown = f"{found.value:,.4g} {name}, same run"
            peers[figure] = f"{peers[figure]}; {shown}" if figure in peers else shown
        else:
            own.append(found)
    return own, peers


def aim_row(aim: Aim, found: Measured | None, peer: str) -> str:
    sign = "<=" if aim.better == "lower" else ">="
    shown = "not measured yet" if found is None else f"{found.value:,.4g} {found.unit}"
    verdict = "" if found is None else ("met" if aim.met_by(found.value) else "**missed**")
    return f"| {aim.figure} | {shown} | {sign} {aim.aim} {aim.unit} | {peer or aim.peer or '-'} | {verdict} |"


def other_row(found: Measured, peer: str) -> str:
    return f"| {found.figure} | {found.value:,.4g} {found.unit} | - | {peer or '-'} | |"


def table(group: str, aims: list[Aim], results: list[Measured]) -> list[str]:
    """One group: rows that have an aim first, each with its conditions; below, what all share."""
    own, peers = split_peers(results)
    by_name = {r.figure: r for r in own}
    aimed = {a.figure for a in aims}
    common, rest = split_conditions([r.conditions for r in own])
    rows = {a.figure: aim_row(a, by_name.get(a.figure), peers.get(a.figure, "")) for a in aims}
    rows |= {r.figure: other_row(r, peers.get(r.figure, "")) for r in own if r.figure not in aimed}
    conditions = {r.figure: text for r, text in zip(own, rest, strict=True)}
    lines = [
        f"### {group}",
        "",
        "| figure | measured | aim | peer | | conditions |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"{row} {conditions.get(name, '')} |" for name, row in rows.items()]
    return [*lines, "", *([f"All: {common}.", ""] if common else [])]


def split_conditions(conditions: list[str]) -> tuple[str, list[str]]:
    """What all have in common, of the parts that semicolons divide, and the rest of each."""
    parts = [each.split("; ") for each in conditions]
    shared = [part for part in parts[0] if all(part in each for each in parts)] if parts else []
    return "; ".join(shared), ["; ".join(p for p in each if p not in shared) for each in parts]


def render() -> str:
    aims, results = read_aims(), read_results()
    groups = dict.fromkeys([*(a.group for a in aims), *results])
    lines: list[str] = []
    for group in groups:
        lines += table(group, [a for a in aims if a.group == group], results.get(group, []))
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    fresh = f"{head}{BEGIN}\n{render()}\n{END}{tail}"
    if "--check" in arguments:
        if fresh != page:
            print("docs/performance.md is older than bench/results: run `make docs`.", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
