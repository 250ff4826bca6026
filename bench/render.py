"""Renders the tables of docs/performance.md and README.md from bench/figures.csv and bench/results/*.json.

Usage: python -m bench.render [--check]. Only the part between a page's two markers is written.
"""

from __future__ import annotations

import sys

from bench.figures import ROOT, Aim, Measured, number, read_aims, read_results, split_peers
from bench.readme_figures import readme_table

PAGE = ROOT.parent / "docs" / "performance.md"
README = ROOT.parent / "README.md"
LONG = 50  # rows; tables without aims that have more are folded
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def aim_row(aim: Aim, found: Measured | None, peer: str) -> str:
    sign = "<=" if aim.better == "lower" else ">="
    shown = "not measured yet" if found is None else f"{number(found.value)} {found.unit}"
    verdict = "" if found is None else ("met" if aim.met_by(found.value) else "**missed**")
    return f"| {aim.figure} | {shown} | {sign} {aim.aim} {aim.unit} | {peer or aim.peer or '-'} | {verdict} |"


def other_row(found: Measured, peer: str) -> str:
    return f"| {found.figure} | {number(found.value)} {found.unit} | - | {peer or '-'} | |"


def table(group: str, aims: list[Aim], results: list[Measured]) -> list[str]:
    """One group: rows that have an aim first, each with its conditions; below, what all share."""
    own, peers = split_peers(results)
    by_name = {r.figure: r for r in own}
    aimed = {a.figure for a in aims}
    common, rest = split_conditions([r.conditions for r in own])
    rows = {a.figure: aim_row(a, by_name.get(a.figure), peers.get(a.figure, "")) for a in aims}
    rows |= {r.figure: other_row(r, peers.get(r.figure, "")) for r in own if r.figure not in aimed}
    conditions = {r.figure: text for r, text in zip(own, rest, strict=True)}
    folded = not aims and len(rows) > LONG
    lines = [
        f"### {group}",
        "",
        *([f"<details><summary>{len(rows)} figures</summary>", ""] if folded else []),
        "| figure | measured | aim | peer | | conditions |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"{row} {conditions.get(name, '')} |" for name, row in rows.items()]
    lines += ["", "</details>"] if folded else []
    return [*lines, "", *([f"All: {common}.", ""] if common else [])]


def split_conditions(conditions: list[str]) -> tuple[str, list[str]]:
    """What all have in common, of the parts that semicolons divide, and the rest of each."""
    parts = [each.split("; ") for each in conditions]
    shared = [part for part in parts[0] if all(part in each for each in parts)] if parts else []
    return "; ".join(shared), ["; ".join(p for p in each if p not in shared) for each in parts]


def render(aims: list[Aim], results: dict[str, list[Measured]]) -> str:
    groups = dict.fromkeys([*(a.group for a in aims), *results])
    lines: list[str] = []
    for group in groups:
        lines += table(group, [a for a in aims if a.group == group], results.get(group, []))
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    aims, results = read_aims(), read_results()
    tables = {PAGE: render(aims, results), README: readme_table(aims, results)}
    for page, table_text in tables.items():
        text = page.read_text()
        head, rest = text.split(BEGIN)
        fresh = f"{head}{BEGIN}\n{table_text}\n{END}{rest.split(END)[1]}"
        if fresh == text:
            continue
        if "--check" in arguments:
            name = page.relative_to(ROOT.parent)
            print(f"{name} is older than bench/results: run `make docs`.", file=sys.stderr)
            return 1
        page.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
