"""Control groups of the nodes, in every hierarchy of this machine (version 1, version 2, or both)."""

import contextlib
import time
from pathlib import Path

from e2e.cluster.errors import ClusterError

MOUNT = Path("/sys/fs/cgroup")
BUSY_SECONDS = 10


def hierarchies(mount: Path = MOUNT) -> list[Path]:
    """The roots: the mount itself on version 2, a folder for each controller on version 1 and in hybrids."""
    if (mount / "cgroup.procs").exists():
        return [mount]
    return [
        path for path in sorted(mount.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()
    ]


def create(cluster: str, node: str, mount: Path = MOUNT) -> str:
    """Make the group that a node's kubelet has as its root; return its path within the hierarchies."""
    for root in hierarchies(mount):
        _delegate(root)
        for group in (root / cluster, root / cluster / node):
            group.mkdir(exist_ok=True)
            _copy_cpuset(root, group)
            _delegate(group)
    return f"/{cluster}/{node}"


def remove(cluster: str, mount: Path = MOUNT) -> None:
    """Remove the cluster's groups from the leaves up.

    Raises:
        ClusterError: a task is left in one after 10 s.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    for root in hierarchies(mount):
        top = root / cluster
        groups = [path for path in top.rglob("*") if path.is_dir()] if top.exists() else []
        for group in (*sorted(groups, reverse=True), top):
            _remove_when_empty(group, deadline)


def _delegate(group: Path) -> None:
    """Let children of `group` have its controllers (version 2): the kubelet refuses a root without them."""
    available, control = group / "cgroup.controllers", group / "cgroup.subtree_control"
    for controller in available.read_text().split() if available.exists() else ():
        with contextlib.suppress(
            OSError
        ):  # one that cannot be delegated, such as a busy realtime cpu controller
            control.write_text(f"+{controller}")


def _copy_cpuset(root: Path, group: Path) -> None:
    """Version 1 starts a cpuset empty, and then no task can enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (root / name).exists():
            (group / name).write_text((root / name).read_text())


def _remove_when_empty(group: Path, deadline: float) -> None:
    while group.exists():
        try:
            group.rmdir()
        except OSError as error:  # busy until the last killed task has left
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the control group {group} cannot be removed: {error.strerror}"
                ) from error
            time.sleep(0.05)
