"""Prints what one GPU measured beside the aims and the peer's figures, which are an H100's.

Usage: python bench/gpu_table.py [RESULT ...], default: every engine-*.json of a GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from render import read_aims, read_results

GROUP = "engine-h100"


def rows(name: str) -> list[tuple[str, ...]]:
    aims = {aim.figure: aim for aim in read_aims() if aim.group == GROUP}
    found = {one.figure: one for one in read_results().get(name, [])}
    table: list[tuple[str, ...]] = [(name, "measured", "aim", "peer", "")]
    for figure, aim in aims.items():
        sign = "<=" if aim.better == "lower" else ">="
        one = found.pop(figure, None)
        verdict = "" if one is None else "met" if aim.met_by(one.value) else "MISSED"
        value = "-" if one is None else f"{one.value:,.6g} {one.unit}"
        table.append((figure, value, f"{sign} {aim.aim}", aim.peer or "-", verdict))
    table += [(one.figure, f"{one.value:,.6g} {one.unit}", "-", "-", "") for one in found.values()]
    return table


def show(table: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(names: list[str]) -> None:
    found = names or [name for name in read_results() if name.startswith("engine-") and name != "engine-cpu"]
    for name in found:
        show(rows(name))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
