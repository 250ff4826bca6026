"""The access logs of all router replicas, kept when their pods are gone."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster.go_programs import program
from e2e.installation import NAMESPACE
from e2e.kubectl import Kubectl

ROUTERS = "app.kubernetes.io/name=octavo-router"
LOOK_SECONDS = 1.0


@dataclass
class RouterLogs:
    """One file in `folder` for every container of a router that has run since the start."""

    kubectl: Kubectl
    folder: Path
    over: threading.Event = field(default_factory=threading.Event)
    readers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def follow(self) -> None:
        """Follow all routers that there are and that will come, until it is over."""
        while not self.over.wait(LOOK_SECONDS):
            for pod in self.kubectl.items("pods", "-l", ROUTERS, namespace=NAMESPACE):
                for status in pod["status"].get("containerStatuses", []):
                    if "running" in status["state"]:
                        self._read(pod["metadata"]["name"], status["containerID"].rpartition("/")[2])

    def _read(self, pod: str, container: str) -> None:
        if container in self.readers:
            return
        words = [str(program("kubectl")), "logs", "-f", pod, "-n", NAMESPACE]
        with (self.folder / container).open("wb") as out:
            self.readers[container] = subprocess.Popen(words, stdout=out, env=self.kubectl.environment)

    def requests(self) -> dict[str, dict[str, Any]]:
        """The lines so far by the request's id."""
        lines = (
            line for path in self.folder.iterdir() for line in path.read_text().splitlines(keepends=True)
        )
        entries = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n"))
        return {entry["id"]: entry for entry in entries if "duration_ms" in entry}


@contextmanager
def router_logs(kubectl: Kubectl, folder: Path) -> Iterator[RouterLogs]:
    """The access logs from now on, until the block ends."""
    folder.mkdir()
    logs = RouterLogs(kubectl, folder)
    thread = threading.Thread(target=logs.follow, name="router logs")
    thread.start()
    try:
        yield logs
    finally:
        logs.over.set()
        thread.join()
        for reader in logs.readers.values():
            reader.terminate()
            reader.wait()
