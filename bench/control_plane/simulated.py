"""1,000 pods behind 200 resources: real controllers and scheduler, nodes and pods played by kwok."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from bench.control_plane.cluster import RESOURCES, Watcher, create
from bench.control_plane.measures import Figures
from bench.control_plane.processes import ROOT, Octavo
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.go_programs import program
from images.commands import run

RESOURCE_COUNT, REPLICAS, NODES = 200, 5, 20
PATIENCE = "--node-monitor-grace-period=1h"  # a busy machine's heartbeats come late
FAKE = {"kwok.x-k8s.io/node": "fake"}
STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")


@contextmanager
def controllers(control_plane: ControlPlane) -> Iterator[None]:
    """controller-manager, scheduler and kwok beside the API server."""
    pki, config = control_plane.state.pki, control_plane.kubeconfig
    shared = [f"--kubeconfig={config}"]
    quick = ["--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000", "--secure-port=0"]
    keys = [f"--service-account-private-key-file={pki}/service-account.key", f"--root-ca-file={pki}/ca.crt"]
    commands: dict[str, list[str | Path]] = {
        "controller-manager": [program("kube-controller-manager"), *shared, *quick, *keys, PATIENCE],
        "scheduler": [program("kube-scheduler"), *shared, *quick],
        "kwok": [program("kwok"), *shared, *_kwok_flags()],
    }
    started = []
    try:
        for name, command in commands.items():
            with (control_plane.state.root / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _kwok_flags() -> list[str]:
    module = ROOT / "e2e" / "cluster" / "tools" / "kwok"
    folder = Path(run(["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"], cwd=module).strip())
    stages = [
        path for stage in STAGES for path in sorted((folder / "kustomize/stage" / stage).glob("*.yaml"))
    ]
    return [
        *(f"--config={path}" for path in stages if path.name != "kustomization.yaml"),
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
    ]


async def measure(
    session: aiohttp.ClientSession, control_plane: ControlPlane, namespace: str, log: Path
) -> Figures:
    for number in range(NODES):
        capacity = {"cpu": "64", "memory": "512Gi", "pods": "200"}
        meta = {
            "name": f"fake-{number}",
            "annotations": FAKE,
            "labels": {"kubernetes.io/hostname": f"fake-{number}"},
        }
        body = {"metadata": meta, "status": {"capacity": capacity, "allocatable": capacity}}
        await session.post("/api/v1/nodes", json=body)
    operator, watcher = Octavo(control_plane.kubeconfig, namespace, log), Watcher(session, namespace)
    names = [f"served-{number}" for number in range(RESOURCE_COUNT)]
    with controllers(control_plane):
        await operator.start()
        async with watcher.watching(RESOURCES):
            began, cpu = time.monotonic(), operator.cpu_ms()
            await create(session, namespace, names, replicas=REPLICAS)
            await watcher.until(lambda: all(map(watcher.ready, names)))
            took = time.monotonic() - began
            await operator.settled()
            pods = f"{RESOURCE_COUNT * REPLICAS}_pods"
            figures: Figures = {
                f"ready_s.{RESOURCE_COUNT}_resources_{pods}": (took, "s"),
                f"cpu_ms_per_resource.{pods}": ((operator.cpu_ms() - cpu) / RESOURCE_COUNT, "ms"),
                f"writes_per_resource.{pods}": (await operator.writes() / RESOURCE_COUNT, "writes"),
                f"rss_mib.{pods}": (operator.rss_mib(), "MiB"),
            }
        await operator.stop()
    return figures
