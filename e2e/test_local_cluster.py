"""The local cluster itself: what it starts, and that it leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

from e2e.cluster.cgroups import hierarchies
from e2e.cluster.cluster import Cluster
from images.parts import REPOSITORY

SCRIPT = """
set -eu
"$PYTHON" -m e2e.cluster up --name short-lived
"$PYTHON" -m e2e.cluster up --name short-lived && exit 1  # is up already
"$PYTHON" -m e2e.cluster down --name short-lived
"$PYTHON" -m e2e.cluster down --name short-lived  # once more is no error
ip -o link show
"""


def test_a_cluster_that_was_taken_down_leaves_nothing() -> None:
    state = Cluster("short-lived").state.root
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", SCRIPT],
        cwd=REPOSITORY,
        env={"PYTHON": sys.executable, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error: the cluster 'short-lived' is up already" in done.stderr
    assert "octavo0" not in done.stdout
    assert not state.exists()
    assert [root for root in hierarchies() if (root / "octavo-short-lived").exists()] == []
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    commands = [_command(process) for process in Path("/proc").glob("[0-9]*")]
    assert [command for command in commands if str(state) in command] == []


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:  # ended meanwhile
        return ""
