"""The operators that are measured, as processes: Octavo's, and the same job on controller-runtime."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import psutil
from e2e.cluster.control_plane import free_ports
from e2e.cluster.go_programs import require_go
from images.cache import key_of, made_once
from images.commands import run

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "bench" / "controller-runtime"
# As in its image, the operator runs without the package `kubernetes`.
START = "import sys; sys.modules['kubernetes'] = None; from octavo_operator.__main__ import main; main()"


def peer_program() -> Path:
    """The peer's program, built from its pinned modules when it is not in the cache."""
    sources = [path.read_bytes() for path in sorted(PEER.iterdir())]
    return made_once("programs", f"controller-runtime-{key_of(sources)}", _build_peer) / "controller-runtime"


def _build_peer(out: Path) -> None:
    require_go()
    print("building the peer, an operator on controller-runtime (about 90 s on two cores, once)")
    out.mkdir()
    flags = ["-trimpath", "-mod=readonly", "-gcflags=all=-dwarf=false", "-ldflags=-s -w"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}
    run(["go", "build", *flags, "-o", str(out / "controller-runtime"), "."], cwd=PEER, env=environment)


class Operator:
    """One operator process; the subclasses know its command line and its metrics' names."""

    name = ""
    reconciles_metric = ""
    asked_metrics: Sequence[str] = ()

    def __init__(self, kubeconfig: Path, namespace: str, log: Path, lease: str = "", **settings: str) -> None:
        self.namespace = namespace
        self.port, self.other_port = free_ports(2)
        self._kubeconfig, self._log, self._lease, self._settings = kubeconfig, log, lease, settings

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self._kubeconfig)}

    def is_write(self, line: str) -> bool:
        raise NotImplementedError

    async def start(self, known: int = 0) -> float:
        """Return the seconds until that many resources have been reconciled."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(), env=self.environment(), stdout=log, stderr=log
            )
        while not await self._reconciled(known):
            if self.process.returncode is not None:
                raise SystemExit(self._log.read_text())
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def lines(self) -> list[str]:
        # Octavo's others are many with many resources
        wanted = [("name[]", name) for name in self.asked_metrics]
        async with aiohttp.request("GET", f"http://127.0.0.1:{self.port}/metrics", params=wanted) as answer:
            return (await answer.text()).splitlines()

    async def sum_of(self, chosen: Callable[[str], bool]) -> float:
        return sum(float(x.split()[-1]) for x in await self.lines() if not x.startswith("#") and chosen(x))

    async def reconciles(self) -> float:
        return await self.sum_of(lambda x: x.startswith(self.reconciles_metric))

    async def writes(self) -> float:
        return await self.sum_of(self.is_write)

    async def settled(self) -> None:
        """Wait until a second passes without a reconcile."""
        former = -1.0
        while (present := await self.reconciles()) != former:
            former = present
            await asyncio.sleep(1)

    def rss_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def cpu_ms(self) -> float:
        used = psutil.Process(self.process.pid).cpu_times()
        return 1000 * float(used.user + used.system)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(how)
            await self.process.wait()

    async def _reconciled(self, known: int) -> bool:
        try:
            return await self._ready() and await self.reconciles() >= known
        except aiohttp.ClientError:
            return False

    async def _ready(self) -> bool:
        port = self.port if isinstance(self, Octavo) else self.other_port
        async with aiohttp.request("GET", f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.ok


class Octavo(Operator):
    """This repository's operator."""

    name = "octavo"
    reconciles_metric = "octavo_operator_reconciles_total"
    asked_metrics = (reconciles_metric, "octavo_operator_api_requests_total", "octavo_operator_leader")

    def command(self) -> list[str]:
        return [sys.executable, "-c", START]

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "PYTHONDONTWRITEBYTECODE": "",  # the image has its bytecode too
            "PYTHONPATH": str(ROOT / "operator"),
            "OCTAVO_ENGINE_IMAGE": "octavo-engine:bench",
            "OCTAVO_NAMESPACE": self.namespace,
            "OCTAVO_WATCH_NAMESPACES": self.namespace,
            "OCTAVO_LEASE": self._lease,
            "OCTAVO_METRICS_API": "false",
            "OCTAVO_BIND_ADDRESS": "127.0.0.1",
            "OCTAVO_HTTP_PORT": str(self.port),
            "OCTAVO_METRICS_PORT": str(self.other_port),
            **self._settings,
        }

    def is_write(self, line: str) -> bool:
        wrote = re.match(r'octavo_operator_api_requests_total\{.*verb="(P|DELETE)', line)
        return wrote is not None and 'kind="Lease"' not in line

    async def leads(self) -> bool:
        return await self.sum_of(lambda x: x.startswith("octavo_operator_leader")) == 1


class Peer(Operator):
    """The yardstick on controller-runtime."""

    name = "controller-runtime"
    reconciles_metric = "controller_runtime_reconcile_total"

    def command(self) -> list[str]:
        flags = {
            "namespaces": self.namespace,
            "metrics": f"127.0.0.1:{self.port}",
            "health": f"127.0.0.1:{self.other_port}",
            "elect": "true" if self._lease else "false",
            "home": self.namespace,
        }
        return [str(peer_program()), *(f"--{name}={value}" for name, value in flags.items())]

    def is_write(self, line: str) -> bool:
        return re.match(r'rest_client_requests_total\{.*method="(P|DELETE)', line) is not None
