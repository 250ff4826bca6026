"""An engine process is killed: its pod restarts, and the router goes on with the other one."""

from collections.abc import Callable
from typing import Any

import openai
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import steady_traffic
from e2e.waiting import wait_for

# The first process of a container cannot be killed from inside, so its children are: the engine's core.
KILL = """
import os, pathlib, signal
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    pid, parent = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()[1]
    if parent == "1" and pid != os.getpid():
        os.kill(pid, signal.SIGKILL)
"""


def test_requests_go_on_while_a_killed_engine_restarts(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("killed", replicas=2)

    def engines() -> dict[str, dict[str, Any]]:
        found = kubectl.items("pods", "-l", "octavo.dev/deployment=killed", namespace=namespace)
        return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0] for pod in found}

    victim = min(engines())
    with steady_traffic(openai_client, model) as traffic:
        wait_for("answers", lambda: traffic.answers > 3)
        kubectl("exec", victim, "-n", namespace, "--", "python3", "-c", KILL)
        wait_for("a restart", lambda: engines()[victim]["restartCount"])
        wait_for("the engine's return", lambda: engines()[victim]["ready"])
    assert engines()[victim]["lastState"]["terminated"]["exitCode"] == 1
    assert sum(engine["restartCount"] for engine in engines().values()) == 1
    wait_ready(kubectl, "killed", namespace)
