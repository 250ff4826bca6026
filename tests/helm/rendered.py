"""Looks into what the chart renders."""

from collections.abc import Callable
from typing import Any

Render = Callable[..., list[dict[str, Any]]]
SPREAD = '[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]'


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def environment(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    (container,) = named(objects, "Deployment", f"octavo-{component}")["spec"]["template"]["spec"][
        "containers"
    ]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
