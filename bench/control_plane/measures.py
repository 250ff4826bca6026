"""What is measured of one operator on one API server."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Iterator

import aiohttp
from bench.control_plane.cluster import (
    CHILDREN,
    DEPLOYMENTS,
    MERGE,
    RESOURCES,
    SERVICES,
    Watcher,
    create,
    resource,
)
from bench.control_plane.processes import Operator

Figures = dict[str, tuple[float, str]]
"""Value and unit by name."""

IDLE_SECONDS = 10


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))]


async def first(session: aiohttp.ClientSession, watcher: Watcher, name: str) -> float:
    """Milliseconds from asking for one resource until its five children are seen."""
    began = time.monotonic()
    await session.post(RESOURCES.format(watcher.namespace), json=resource(name))
    await watcher.until(lambda: all(watcher.seen(each, name) for each in CHILDREN))
    return 1000 * (max(watcher.changes[each, name][0] for each in CHILDREN) - began)


async def one_by_one(
    session: aiohttp.ClientSession, pairs: list[tuple[Operator, Watcher]], count: int
) -> dict[str, Figures]:
    """Latency of a resource, the operators taking turns so that all meet the same noise."""
    for _, watcher in pairs:
        for number in range(20):
            await first(session, watcher, f"warm-{number}")
    began = {operator.name: operator.cpu_ms() for operator, _ in pairs}
    took: dict[str, list[float]] = {operator.name: [] for operator, _ in pairs}
    for number in range(count):
        for operator, watcher in pairs:
            took[operator.name].append(await first(session, watcher, f"single-{number}"))
    for operator, _ in pairs:
        await operator.settled()
    return {
        operator.name: {
            "children_p50_ms": (statistics.median(took[operator.name]), "ms"),
            "children_p99_ms": (percentile(took[operator.name], 0.99), "ms"),
            "cpu_ms_per_resource.one_by_one": ((operator.cpu_ms() - began[operator.name]) / count, "ms"),
        }
        for operator, _ in pairs
    }


async def many(session: aiohttp.ClientSession, operator: Operator, watcher: Watcher, count: int) -> Figures:
    """A burst of resources until the last has its children and its status."""
    names = [f"many-{number}" for number in range(count)]
    cpu, writes, began = operator.cpu_ms(), await operator.writes(), time.monotonic()
    await create(session, operator.namespace, names)
    await watcher.until(lambda: watcher.reported(names[-1]) and all(map(watcher.reported, names)))
    took = time.monotonic() - began
    await operator.settled()
    return {
        f"done_s.{count}_resources": (took, "s"),
        "cpu_ms_per_resource": ((operator.cpu_ms() - cpu) / count, "ms"),
        "writes_per_resource": ((await operator.writes() - writes) / count, "writes"),
    }


async def drift(session: aiohttp.ClientSession, operator: Operator, watcher: Watcher) -> Figures:
    """50 Deployments edited, 50 Services deleted, until each is right again: one by one, and all at once."""
    names = [f"many-{number}" for number in range(50)]
    both = [(collection, name) for name in names for collection in (DEPLOYMENTS, SERVICES)]
    one_by_one = [await repaired(session, watcher, *at) for at in both]
    await operator.settled()
    at_once = await asyncio.gather(*(repaired(session, watcher, *at) for at in both))
    await operator.settled()
    return {
        "drift_repaired_p50_ms.100": (statistics.median(one_by_one), "ms"),
        "drift_repaired_p99_ms.100": (percentile(one_by_one, 0.99), "ms"),
        "drift_repaired_p99_ms.100_at_once": (percentile(at_once, 0.99), "ms"),
    }


async def repaired(session: aiohttp.ClientSession, watcher: Watcher, collection: str, name: str) -> float:
    """Milliseconds from an edit or a deletion by hand until it is undone."""
    at, path = (collection, name), f"{collection.format(watcher.namespace)}/{name}"
    before, began = len(watcher.changes[at]), time.monotonic()
    if collection == DEPLOYMENTS:
        limit = 9 + before % 2  # another one each time
        edit = json.dumps({"spec": {"revisionHistoryLimit": limit}})
        await session.patch(path, data=edit, headers=MERGE)
    else:
        await session.delete(path)
    await watcher.until(lambda: len(watcher.changes[at]) >= before + 2)
    return 1000 * (watcher.changes[at][before + 1] - began)


async def idle(operator: Operator) -> Figures:
    before = await operator.writes()
    await asyncio.sleep(IDLE_SECONDS)
    return {f"idle_writes.{IDLE_SECONDS}s": (await operator.writes() - before, "writes")}


async def held(session: aiohttp.ClientSession, operator: Operator, watcher: Watcher, count: int) -> Figures:
    """Memory with that many resources, and with a fresh process that finds them."""
    names = set(_numbered("many", count))
    missing = sorted(name for name in names if not watcher.seen(RESOURCES, name))
    await create(session, operator.namespace, missing)
    await watcher.until(lambda: all(map(watcher.reported, missing)))
    await operator.settled()
    full = operator.rss_mib()
    await operator.stop()
    took = await operator.start(count)
    await operator.settled()
    return {
        f"rss_mib.{count}": (full, "MiB"),
        f"restart_s.{count}": (took, "s"),
        f"restart_writes.{count}": (await operator.writes(), "writes"),
        f"restart_peak_mib.{count}": (operator.peak_mib(), "MiB"),
    }


def _numbered(prefix: str, count: int) -> Iterator[str]:
    return (f"{prefix}-{number}" for number in range(count))


async def failover(session: aiohttp.ClientSession, watcher: Watcher, leader: Operator, name: str) -> float:
    """Seconds from `kill -9` of the leader until another has made a new resource's children."""
    await leader.stop(signal.SIGKILL)
    began = time.monotonic()
    await first(session, watcher, name)
    return time.monotonic() - began
