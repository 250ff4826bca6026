"""Figures that are measured on the cluster, kept beside those of `bench/`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from images.parts import REPOSITORY


def keep(file: str, figure: str, value: float, unit: str, conditions: str) -> None:
    """Write a figure into bench/results/FILE.json, in the place of a former one of that name."""
    row = {"figure": figure, "value": value, "unit": unit, "conditions": conditions}
    keep_rows(REPOSITORY / "bench" / "results" / f"{file}.json", [row])


def keep_rows(target: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write these figures into a file of results, in the place of former ones of the same names."""
    names = {row["figure"] for row in rows}
    former = json.loads(target.read_text()) if target.exists() else []
    kept = [row for row in former if row["figure"] not in names]
    target.write_text(json.dumps([*kept, *rows], indent=2) + "\n")
