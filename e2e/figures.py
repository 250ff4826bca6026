"""Figures that are measured on the cluster, kept beside those of `bench/`."""

import json

from images.parts import REPOSITORY


def keep(file: str, figure: str, value: float, unit: str, conditions: str) -> None:
    """Write a figure into bench/results/FILE.json, in the place of a former one of that name."""
    target = REPOSITORY / "bench" / "results" / f"{file}.json"
    row = {"figure": figure, "value": value, "unit": unit, "conditions": conditions}
    former = json.loads(target.read_text()) if target.exists() else []
    others = [each for each in former if each["figure"] != figure]
    target.write_text(json.dumps([*others, row], indent=2) + "\n")
