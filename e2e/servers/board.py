"""The chart's Grafana board, as far as Prometheus has to answer it."""

import json
from typing import Any

from images.parts import REPOSITORY

FILE = REPOSITORY / "helm" / "octavo" / "files" / "monitoring" / "board.json"
ALL_MODELS = {"$__rate_interval": "1m", "$model": ".*"}


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def queries() -> list[tuple[str, str]]:
    """Each panel's title with each of its queries, as Grafana asks them when all models are chosen."""
    return [
        (panel["title"], substituted(target["expr"]))
        for panel in board()["panels"]
        for target in panel.get("targets", ())
    ]


def substituted(query: str) -> str:
    for variable, value in ALL_MODELS.items():
        query = query.replace(variable, value)
    return query
