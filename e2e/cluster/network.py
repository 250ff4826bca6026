"""The cluster's network: a bridge on this machine, one address and one range of pods for each node.

    this machine 10.200.0.1 == bridge == 10.200.0.11 (n1) -- pods 10.201.1.0/24
                                     \\== 10.200.0.12 (n2) -- pods 10.201.2.0/24

Services (10.202.0.0/16) are reached from this machine through the first node's kube-proxy.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from e2e.cluster.control_plane import SERVICE_NET
from e2e.cluster.errors import ClusterError

BRIDGE = "octavo0"
HOST = "10.200.0.1"
ALL = "10.200.0.0/14"  # nodes, pods and Services
PODS = "10.201.0.0/16"
LAST_RESORT_METRIC = "9999"
MAX_NODES = 200


@dataclass(frozen=True)
class Node:
    """A node of the cluster; the first has index 1."""

    index: int

    @property
    def name(self) -> str:
        """Its name in Kubernetes, and of its processes and files."""
        return f"n{self.index}"

    @property
    def address(self) -> str:
        """Its own address."""
        return f"10.200.0.{10 + self.index}"

    @property
    def pods(self) -> str:
        """The range of its pods' addresses."""
        return f"10.201.{self.index}.0/24"

    @property
    def link(self) -> str:
        """This machine's end of the cable to the node."""
        return f"{BRIDGE}-{self.name}"


def nodes(count: int) -> list[Node]:
    """The nodes of a cluster of `count`.

    Raises:
        ClusterError: `count` is not between 1 and 200.
    """
    if not 1 <= count <= MAX_NODES:
        raise ClusterError(f"a cluster of {count} nodes cannot be made: give from 1 to {MAX_NODES}")
    return [Node(index) for index in range(1, count + 1)]


def create_bridge() -> None:
    """Make the bridge; nothing meant for the cluster leaves this machine by another way.

    Raises:
        ClusterError: there is a bridge of that name already: a cluster is up in this network namespace.
    """
    if subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode == 0:
        raise ClusterError(
            f"a cluster is up in this network namespace already (link {BRIDGE}): take it down, "
            "or start this one under `unshare -n`"
        )
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    _ip("route", "add", ALL, "dev", BRIDGE, "metric", LAST_RESORT_METRIC)


def attach(node: Node, pid: int) -> None:
    """Lay a cable from the bridge into the network namespace of process `pid`, where it is called eth0."""
    _ip("link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "set", node.link, "master", BRIDGE, "up")
    _ip("route", "add", node.pods, "via", node.address)


def route_services(first: Node) -> None:
    """Reach Services from this machine."""
    _ip("route", "add", SERVICE_NET, "via", first.address)


def remove(members: Sequence[Node]) -> None:
    """Remove cables and bridge, and with them all routes; what is gone already is no error."""
    for link in (*(node.link for node in members), BRIDGE):
        subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")
