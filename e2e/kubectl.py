"""kubectl, of the cluster's own version, as a Python object."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import program

# `kubectl wait` for a definition: its conditions are null at first, over which --for=condition fails.
ESTABLISHED = '--for=jsonpath={.status.conditions[?(@.type=="Established")].status}=True'


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl against one cluster; `kubeconfig` None means the user's own."""

    kubeconfig: Path | None = None

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl printed.

        Raises:
            ClusterError: it failed; the text is what it said.
        """
        command = [str(program("kubectl")), *words]
        done = subprocess.run(
            command, input=stdin, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(words)}` failed: {done.stderr.strip()}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and helm reach this cluster."""
        chosen = {"KUBECONFIG": str(self.kubeconfig)} if self.kubeconfig else {}
        return {**os.environ, **chosen}

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        """Apply manifests, server-side.

        Raises:
            ClusterError: one was refused.
        """
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self("apply", "--server-side", "-n", namespace, "-f", "-", stdin=json.dumps(listed))

    def get(self, *words: str, namespace: str = "default") -> dict[str, Any]:
        """An object, or a list of objects.

        Raises:
            ClusterError: there is none of that name.
        """
        found: dict[str, Any] = json.loads(self("get", "-n", namespace, "-o", "json", *words))
        return found

    def items(self, *words: str, namespace: str = "default") -> list[dict[str, Any]]:
        """The objects of a list."""
        items: list[dict[str, Any]] = self.get(*words, namespace=namespace)["items"]
        return items

    @contextmanager
    def watched(self, *words: str, namespace: str, show: str) -> Iterator[list[tuple[float, str]]]:
        """What a JSONPath shows of each object and each change, as lines with the Unix times they came."""
        command = [str(program("kubectl")), "get", "-n", namespace, *words, "-w", "-o", f"jsonpath={show}"]
        lines: list[tuple[float, str]] = []
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as process:

            def read() -> None:
                lines.extend((time.time(), line.strip()) for line in process.stdout or ())

            thread = threading.Thread(target=read, name="watch")
            thread.start()
            try:
                yield lines
            finally:
                process.terminate()
                thread.join()

    @contextmanager
    def forwarded(self, target: str, port: int, namespace: str) -> Iterator[str]:
        """A URL on this machine that reaches a port of `target`, such as service/NAME, by the API server.

        Raises:
            ClusterError: kubectl cannot forward to it.
        """
        words = ["port-forward", "-n", namespace, target, f":{port}"]
        command = [str(program("kubectl")), *words]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                first = process.stdout.readline() if process.stdout else ""
                if "127.0.0.1:" not in first:
                    raise ClusterError(f"`kubectl {' '.join(words)}` failed: see its message above")
                yield f"http://127.0.0.1:{first.split('127.0.0.1:')[1].split()[0]}"
            finally:
                process.terminate()
