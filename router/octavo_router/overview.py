"""What the router knows of models and pods, as plain values for the page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from octavo_router.endpoints import Route

Overview = dict[str, dict[str, Any]]
"""By key: names, state and, if it is stalled, why; requests and pods."""


def overview(routes: Iterable[Route]) -> Overview:
    return {route.deployment.key: _model(route) for route in routes}


def _model(route: Route) -> dict[str, Any]:
    deployment = route.deployment
    return {
        "names": [deployment.served_name, *deployment.aliases],
        "state": _state(route),
        "why": "" if route.ready else deployment.stalled,
        "in_flight": route.figures.in_flight,
        "held": route.figures.held,
        "pods": {
            e.address: {"in_flight": e.in_flight, "set_aside": not e.breaker.closed} for e in route.ready
        },
    }


def _state(route: Route) -> str:
    if route.ready:
        return "ready"
    deployment = route.deployment
    if deployment.stalled:
        return "stalled"
    if not deployment.sleeps:
        return "no pod is ready"
    if route.figures.held:
        return "waking"
    return "asleep" if deployment.idle else "starting"


def added_up(overviews: Iterable[Overview]) -> Overview:
    """Those of several workers as one: requests are added, the rest is the same in all of them."""
    total: Overview = {}
    for each in overviews:
        for key, model in each.items():
            total[key] = _sum(total[key], model) if key in total else model
    return total


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    pods = dict(one["pods"])
    for address, pod in other["pods"].items():
        known = pods.get(address, {"in_flight": 0, "set_aside": False})
        pods[address] = {
            "in_flight": known["in_flight"] + pod["in_flight"],
            "set_aside": known["set_aside"] or pod["set_aside"],
        }
    requests = {name: one[name] + other[name] for name in ("in_flight", "held")}
    # One of them may hold a request.
    state = other["state"] if other["state"] == "waking" else one["state"]
    return {**one, **requests, "state": state, "pods": pods}


def news(former: Overview, present: Overview) -> Iterator[str]:
    """What has changed, in words."""
    for key in sorted(former.keys() | present.keys()):
        before, after = former.get(key), present.get(key)
        if after is None:
            yield f"{key} is deleted"
        elif before is None:
            yield f"{key} is here: {after['state']}{_because(after)}"
        else:
            yield from _changes(key, before, after)


def _because(model: dict[str, Any]) -> str:
    return f", because {model['why']}" if model["why"] else ""


def _changes(key: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    if before["state"] != after["state"]:
        yield f"{key}: {after['state']}{_because(after)}"
    for address in sorted(before["pods"].keys() - after["pods"].keys()):
        yield f"{key}: pod {address} takes no more requests"
    for address in sorted(after["pods"].keys() - before["pods"].keys()):
        yield f"{key}: pod {address} takes requests"
    for address, pod in after["pods"].items():
        if pod["set_aside"] and not before["pods"].get(address, pod)["set_aside"]:
            yield f"{key}: pod {address} is set aside after a failure"
