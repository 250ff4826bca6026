"""How old the HPA's metric is when the API server answers for it, also while the leader is killed."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from bench.control_plane.cluster import RESOURCES, Watcher, resource
from bench.control_plane.measures import Figures
from bench.control_plane.processes import Octavo
from e2e.cluster.control_plane import free_ports

METRIC = "octavo_num_requests_waiting"
VERSIONS = {"v1beta2": 200, "v1beta1": 100}
PODS = 50
SECONDS = 25  # before the kill, and after it
STATUS = {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}


@asynccontextmanager
async def engine(began: float) -> AsyncIterator[int]:
    """An engine whose queue is as long as the seconds since `began`, so that a sample tells its own age."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f"{METRIC} {time.time() - began}\n")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def measure(session: aiohttp.ClientSession, namespace: str, kubeconfig: Path, log: Path) -> Figures:
    began = time.time()
    async with engine(began) as port:
        settings = {"OCTAVO_METRICS_API": "true", "OCTAVO_ENGINE_PORT": str(port)}
        replicas = [Octavo(kubeconfig, namespace, log, "octavo-operator", **settings) for _ in range(2)]
        leader, standby = replicas
        await _register(session, namespace, leader.other_port)
        await leader.start()
        await _pods(session, namespace)
        await standby.start()
        ages = await _ask(session, namespace, began, SECONDS)
        await leader.stop(signal.SIGKILL)
        await _lead_to(session, standby.other_port)
        ages += await _ask(session, namespace, began, SECONDS)
        await standby.stop()
    return {"metric_age_s": (max(ages), "s")}


async def _register(session: aiohttp.ClientSession, namespace: str, port: int) -> None:
    service = {"namespace": namespace, "name": "octavo-operator"}
    spec = {"type": "ExternalName", "externalName": "localhost"}
    await session.post(f"/api/v1/namespaces/{namespace}/services", json={"metadata": service, "spec": spec})
    for version, priority in VERSIONS.items():
        body = {
            "metadata": {"name": f"{version}.custom.metrics.k8s.io"},
            "spec": {
                "group": "custom.metrics.k8s.io",
                "version": version,
                "groupPriorityMinimum": 100,
                "versionPriority": priority,
                "service": {**service, "port": port},
            },
        }
        await session.post("/apis/apiregistration.k8s.io/v1/apiservices", json=body)


async def _lead_to(session: aiohttp.ClientSession, port: int) -> None:
    """As a Service's endpoints do when a replica is gone."""
    headers = {"Content-Type": "application/merge-patch+json"}
    for version in VERSIONS:
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.custom.metrics.k8s.io"
        await session.patch(path, json={"spec": {"service": {"port": port}}}, headers=headers)


async def _pods(session: aiohttp.ClientSession, namespace: str) -> None:
    """Ready pods of one resource, all on this machine."""
    watcher = Watcher(session, namespace)
    async with watcher.watching(RESOURCES):
        await session.post(RESOURCES.format(namespace), json=resource("busy"))
        await watcher.until(lambda: watcher.reported("busy"))
    labels = {"octavo.dev/deployment": "busy", "app.kubernetes.io/managed-by": "octavo"}
    spec = {
        "serviceAccountName": "busy",
        "automountServiceAccountToken": False,
        "containers": [{"name": "engine", "image": "octavo-engine:bench"}],
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    headers = {"Content-Type": "application/merge-patch+json"}
    for number in range(PODS):
        meta = {"name": f"busy-{number}", "labels": labels}
        await session.post(path, json={"metadata": meta, "spec": spec})
        await session.patch(f"{path}/busy-{number}/status", json={"status": STATUS}, headers=headers)


async def _ask(session: aiohttp.ClientSession, namespace: str, began: float, seconds: float) -> list[float]:
    """The ages of all values of the answers of that time."""
    path = f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/{METRIC}"
    ages: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        async with session.get(path, raise_for_status=False) as answer:
            items = (await answer.json())["items"] if answer.ok else []
        now = time.time() - began
        ages += [now - _number(item["value"]) for item in items]
        if len(items) == PODS:
            await asyncio.sleep(random.uniform(0.1, 3))
        else:
            end = max(end, time.monotonic() + 5) if not ages else end
            await asyncio.sleep(0.1)
    return ages


def _number(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
