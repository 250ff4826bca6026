"""Measures the operator beside one on controller-runtime, on a real etcd and kube-apiserver.

Usage: python -m bench.control_plane [PART ...] [--small]

Parts: figures, failover, metric-age, simulated; none means all. Writes bench/results/operator.json; figures
of parts that did not run are kept. --small takes a tenth of the resources, to see that all works.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import statistics
import sys
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from bench.control_plane import measures, metric_age, simulated
from bench.control_plane.cluster import CHILDREN, RESOURCES, Watcher, clear, client, install
from bench.control_plane.measures import Figures
from bench.control_plane.processes import ROOT, Octavo, Operator, Peer
from e2e.cluster.control_plane import ControlPlane
from e2e.figures import keep_rows

TARGET = ROOT / "bench" / "results" / "operator.json"
PARTS = ("figures", "failover", "metric-age", "simulated")
KINDS: tuple[type[Operator], ...] = (Octavo, Peer)
OURS, PEERS = Octavo.name, Peer.name
NAMESPACES = (OURS, PEERS, "metric-age", "simulated")
ROUNDS = 3
Found = dict[str, Figures]
"""Figures by operator."""


class Bench:
    """One API server and what is measured on it."""

    def __init__(self, control_plane: ControlPlane, session: aiohttp.ClientSession, small: bool) -> None:
        self.control_plane, self.session = control_plane, session
        self.share = 10 if small else 1

    def operator(self, kind: type[Operator], lease: str = "") -> Operator:
        log = self.control_plane.state.root / f"{kind.name}.log"
        return kind(self.control_plane.kubeconfig, kind.name, log, lease)

    async def figures(self) -> Found:
        """One operator after the other and alone, but for single resources, which they make in turn."""
        operators = [self.operator(kind) for kind in KINDS]
        watchers = [Watcher(self.session, operator.namespace) for operator in operators]
        found: Found = {}
        for operator in operators:
            await operator.start()
            found[operator.name] = {"rss_mib.0": (operator.rss_mib(), "MiB")}
        async with AsyncExitStack() as stack:
            for watcher in watchers:
                await stack.enter_async_context(watcher.watching(RESOURCES, *CHILDREN))
            pairs = list(zip(operators, watchers, strict=True))
            singles = await measures.one_by_one(self.session, pairs, 200 // self.share)
            for operator, _ in pairs:
                await clear(self.session, operator.namespace)
                await operator.stop()
            for operator, watcher in pairs:
                found[operator.name] |= singles[operator.name]
                await operator.start()
                await measures.first(self.session, watcher, "awake")
                await operator.settled()
                found[operator.name] |= await self._bulk(operator, watcher)
                await operator.stop()
                await clear(self.session, operator.namespace)
        return found

    async def _bulk(self, operator: Operator, watcher: Watcher) -> Figures:
        count = 1000 // self.share
        found = await measures.many(self.session, operator, watcher, count)
        found[f"rss_mib.{count}"] = (operator.rss_mib(), "MiB")
        found |= await measures.drift(self.session, operator, watcher)
        found |= await measures.idle(operator)
        found |= await measures.held(self.session, operator, watcher, 4 * count)
        if operator.name == OURS:
            found |= await measures.held(self.session, operator, watcher, 5 * count)
        return found

    async def failover(self) -> Found:
        took = await asyncio.gather(*map(self._failovers, KINDS))
        return {kind.name: _failover(seconds) for kind, seconds in zip(KINDS, took, strict=True)}

    async def _failovers(self, kind: type[Operator]) -> list[float]:
        """The leader is killed, a standby takes its place, and a new standby is started."""
        leader, standby = (self.operator(kind, "octavo-operator") for _ in range(2))
        watcher = Watcher(self.session, kind.name)
        took = []
        async with watcher.watching(RESOURCES, *CHILDREN):
            await leader.start()
            await measures.first(self.session, watcher, "before")
            await standby.start()
            for number in range(ROUNDS):
                await asyncio.sleep(3 + number)  # another moment between two renewals each time
                took.append(await measures.failover(self.session, watcher, leader, f"after-{number}"))
                leader, standby = standby, leader
                await standby.start()
        await leader.stop()
        await standby.stop()
        return took

    async def metric_age(self) -> Found:
        log = self.control_plane.state.root / "metric-age.log"
        return {
            OURS: await metric_age.measure(self.session, "metric-age", self.control_plane.kubeconfig, log)
        }

    async def simulated(self) -> Found:
        log = self.control_plane.state.root / "simulated.log"
        return {OURS: await simulated.measure(self.session, self.control_plane, "simulated", log)}


async def measure(parts: list[str], small: bool) -> list[dict[str, Any]]:
    rows = []
    for part in parts:
        with ControlPlane() as control_plane:
            async with client(control_plane) as session:
                await install(session, NAMESPACES)
                bench = Bench(control_plane, session, small)
                found: Found = await getattr(bench, part.replace("-", "_"))()
        rows += rows_of(part, found)
    return rows


def rows_of(part: str, found: Found) -> list[dict[str, Any]]:
    """Octavo's figures by their names, the peer's below its own."""
    conditions = (
        f"{CONDITIONS[part]}; real etcd and kube-apiserver on the same {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end"
    )
    return [
        {
            "figure": figure if name == OURS else f"{name}: {figure}",
            "value": round(value, 2),
            "unit": unit,
            "conditions": conditions,
        }
        for name, figures in found.items()
        for figure, (value, unit) in figures.items()
    ]


CONDITIONS = {
    "figures": "Octavo and a controller-runtime operator of the same job on one API server, five children "
    "each; single resources by turns, then each alone 1,000 at once; 50 Deployments edited, 50 Services "
    "deleted by hand",
    "failover": f"two replicas each; {ROUNDS} times kill -9 of the leader, until a new "
    "resource has its children",
    "metric-age": f"two replicas, {metric_age.PODS} pods, asked through the API server every 0.1 to 3 s; "
    "the leader, which is the one that is asked, is killed half-way; the oldest value of all answers",
    "simulated": f"{simulated.RESOURCE_COUNT} resources of {simulated.REPLICAS} pods on {simulated.NODES} "
    "nodes played by kwok, with the real controller-manager and scheduler",
}


def _failover(seconds: list[float]) -> Figures:
    return {"failover_s": (statistics.median(seconds), "s"), "failover_s.max": (max(seconds), "s")}


def main(arguments: list[str]) -> None:
    small = "--small" in arguments
    parts = [each for each in arguments if each != "--small"] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"unknown part {', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the API server and etcd are ended too
    rows = asyncio.run(measure(parts, small))
    if not small:
        keep_rows(TARGET, rows)
    for row in rows:
        print(f"{row['figure']:52} {row['value']:>10} {row['unit']}")


if __name__ == "__main__":
    main(sys.argv[1:])
