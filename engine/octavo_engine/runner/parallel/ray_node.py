"""This node's part of a Ray cluster: the head beside the leader, or a worker node that joins it.

Importing this needs no Ray: its command line is started, and lives and dies with this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec

from octavo_engine.errors import ConfigError
from octavo_engine.runner.parallel.parent import end_with_parent

_OBJECT_STORE_BYTES = 80 << 20  # nothing travels through it; Ray wants no less
_ENVIRONMENT = {
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # a node that has lost its head ends
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_ray() -> None:
    """Errors: ConfigError naming the extra that brings Ray."""
    if find_spec("ray") is None:
        raise ConfigError(
            "Ranks on several nodes are placed by Ray, which is not installed: install octavo[engine,ray], "
            "or ask for no more ranks than this node has GPUs."
        )


class RayProcess:
    """``ray start`` with ``where`` (head or address); on CPUs the node takes so many ``ranks``.

    What Ray says is kept apart: the last line on stderr is the engine's.
    """

    def __init__(self, where: list[str], ranks: int) -> None:
        check_ray()
        command = [sys.executable, "-m", __name__, "start", *where, "--block"]
        command += [f"--num-cpus={ranks}", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
        command += ["--disable-usage-stats", "--include-log-monitor=false"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # ctrl-C is for the engine to hear
        )

    def ended(self) -> str | None:
        """How it ended, with what it said last; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"Ray ended with exit code {code} and said: {lines[-1] if lines else 'nothing'}"

    def end(self, patience: float = 5.0) -> None:
        """It may drain for half a minute; after ``patience`` seconds everything of it is killed."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._log.close()


def answers(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), seconds):
            return True
    except OSError:
        return False


def main() -> None:
    """Become Ray's command line, which is told when its parent dies."""
    end_with_parent(signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]])


if __name__ == "__main__":
    main()
