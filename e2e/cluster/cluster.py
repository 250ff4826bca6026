"""A whole cluster: up, down, and images into its nodes."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from e2e.cluster import cgroups, network
from e2e.cluster.container_parts import container_parts
from e2e.cluster.control_plane import Addresses, ControlPlane
from e2e.cluster.controllers import DNS_READY_PORT, start_controllers
from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import program
from e2e.cluster.network import Node
from e2e.cluster.node_files import PAUSE_IMAGE, write_node_files
from e2e.cluster.paths import StateFolder
from e2e.cluster.pki import KeyPair, issue, kubeconfig
from e2e.cluster.processes import ProcessTable
from images.oci import Layer, write_archive

NODE_SCRIPT = Path(__file__).with_name("node.sh")
ADDRESSES = Addresses(network.HOST, apiserver=16443, etcd_client=12379, etcd_peer=12380)
APISERVER_FLAGS = {
    "advertise-address": network.HOST,
    "kubelet-preferred-address-types": "InternalIP",
    "enable-aggregator-routing": "true",
    "default-not-ready-toleration-seconds": "5",
    "default-unreachable-toleration-seconds": "5",
}
COMPONENTS = {
    "controller-manager": "system:kube-controller-manager",
    "scheduler": "system:kube-scheduler",
    "proxy": "system:kube-proxy",
}
STOP_ORDER = ("coredns", "scheduler", "controller-manager")


@dataclass(frozen=True)
class Cluster:
    """A cluster by name.

    Its processes outlive this object; any later object of the same name is the same cluster.
    """

    name: str = "demo"
    say: Callable[[str], None] = print

    @property
    def state(self) -> StateFolder:
        """What it writes."""
        return StateFolder.of_cluster(self.name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    @property
    def cgroup(self) -> str:
        """The control group that all its nodes are below."""
        return f"octavo-{self.name}"

    @property
    def processes(self) -> ProcessTable:
        """All processes of this machine that belong to it."""
        return ProcessTable(self.state.processes, self.state.logs)

    @property
    def control_plane(self) -> ControlPlane:
        """Its etcd and kube-apiserver."""
        return ControlPlane(self.state, ADDRESSES, APISERVER_FLAGS)

    @property
    def nodes(self) -> list[Node]:
        """Its nodes that were started."""
        names = self.processes.names()
        return [node for node in network.nodes(network.MAX_NODES) if node.name in names]

    @property
    def is_up(self) -> bool:
        """Whether it came up whole and its nodes and control plane run."""
        names = self.processes.names()
        alive = (self.processes.get(name).alive for name in names)
        return (self.state.root / "up").exists() and all(alive)

    def check(self) -> None:
        """Raise a ClusterError when this machine or user cannot start a cluster."""
        if sys.platform != "linux":
            raise ClusterError(f"a local cluster is made of Linux namespaces: this is {sys.platform}")
        if os.geteuid() != 0:
            raise ClusterError(
                "a local cluster's nodes are Linux namespaces and control groups: run this as root"
            )
        for command in ("ip", "nsenter", "unshare"):
            if not shutil.which(command):
                raise ClusterError(f"the command {command} is missing: `apt-get install iproute2 util-linux`")

    def up(self, count: int = 1) -> None:
        """Start a cluster of `count` nodes, and return when they are Ready and DNS answers.

        Raises:
            ClusterError: a precondition is missing, it is up already, or a part does not come up.
        """
        members = network.nodes(count)
        self.check()
        if self.state.root.exists():
            raise ClusterError(
                f"the cluster {self.name!r} is up already: take it down first ({self.state.root})"
            )
        parts = container_parts(self.say)
        network.create_bridge()
        ca = self.control_plane.start()
        self._write_kubeconfigs(ca, members)
        self._write_pause_image(parts)
        for node in members:
            self._start_node(node, members, parts)
        network.route_services(members[0])
        self.control_plane.wait_ready()
        (self.state.root / "api-ready").touch()
        start_controllers(self.state, self.processes)
        self._wait_ready(members)
        (self.state.root / "up").touch()

    def down(self) -> None:
        """End it and leave nothing behind: no process, mount, link, route, control group or file."""
        members, names = self.nodes, self.processes.names()
        for name in (*(node.name for node in members), *(name for name in STOP_ORDER if name in names)):
            self.processes.stop(
                name, signal.SIGKILL
            )  # a node's init takes all its containers and mounts along
        self.control_plane.stop()
        network.remove(members)
        cgroups.remove(self.cgroup)
        shutil.rmtree(self.state.root, ignore_errors=True)

    def load(self, archives: Iterable[Path], members: Sequence[Node] = ()) -> None:
        """Import OCI archives into all nodes, or into those given.

        Raises:
            ClusterError: the cluster is not up, or an archive cannot be imported.
        """
        targets = list(members) or self.nodes
        if not targets:
            raise ClusterError(f"the cluster {self.name!r} is not up: nothing can be loaded into it")
        for archive in archives:
            with ThreadPoolExecutor(len(targets)) as pool:
                list(pool.map(self._import, targets, repeat(archive.absolute())))

    def node_pid(self, node: Node) -> int:
        """The process of this machine that is the first one of `node`: its namespaces are the node's.

        Raises:
            ClusterError: the node is not running.
        """
        pid = self.processes.get(node.name).first_child()
        if pid is None:
            raise ClusterError(f"node {node.name} of the cluster {self.name!r} is not running")
        return pid

    def _import(self, node: Node, archive: Path) -> None:
        enter = ["nsenter", "-t", str(self.node_pid(node)), "-m"]
        importing = [*enter, "ctr", "-n", "k8s.io", "images", "import", str(archive)]
        done = subprocess.run(importing, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{archive} cannot be loaded into {node.name}: {done.stderr.strip()[-300:]}")

    def _write_kubeconfigs(self, ca: KeyPair, members: Sequence[Node]) -> None:
        pki = self.state.pki
        for name, user in COMPONENTS.items():
            (pki / f"{name}.conf").write_text(kubeconfig(ADDRESSES.url, ca, issue(ca, user)))
        for node in members:
            pair = issue(ca, f"system:node:{node.name}", "system:nodes", hosts=[node.name, node.address])
            pair.write(pki, node.name)
            (pki / f"{node.name}.conf").write_text(kubeconfig(ADDRESSES.url, ca, pair))

    def _write_pause_image(self, parts: Path) -> None:
        layer = self.state.root / "pause-layer.tar"
        with tarfile.open(layer, "w") as tar:
            tar.add(parts / "usr/bin/catatonit", "pause")
        write_archive(
            self.state.root / "pause.tar", PAUSE_IMAGE, [Layer.of(layer)], {"Entrypoint": ["/pause", "-P"]}
        )

    def _start_node(self, node: Node, members: Sequence[Node], parts: Path) -> None:
        folder = write_node_files(self.state, node, cgroups.create(self.cgroup, node.name))
        environment = {
            "NODE": str(folder),
            "PARTS": str(parts),
            "KUBELET": str(program("kubelet")),
            "KUBE_PROXY": str(program("kube-proxy")),
            "STATE": str(self.state.root),
            "LOGS": str(self.state.logs),
            "NAME": node.name,
            "ADDRESS": node.address,
            "GATEWAY": network.HOST,
            "PEERS": " ".join(f"{peer.pods}={peer.address}" for peer in members if peer != node),
        }
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        init: list[str | Path] = [parts / "usr/bin/catatonit", "--", "sh", NODE_SCRIPT]
        process = self.processes.start(
            node.name, ["unshare", *spaces, "--propagation", "private", *init], environment
        )
        self.processes.wait(node.name, f"the start of {node.name}", lambda: process.first_child() is not None)
        network.attach(node, self.node_pid(node))

    def _wait_ready(self, members: Sequence[Node]) -> None:
        plane, wait = self.control_plane, self.processes.wait

        def nodes_ready() -> bool:
            conditions = [
                (condition["type"], condition["status"])
                for node in json.loads(plane.get("/api/v1/nodes"))["items"]
                for condition in node["status"]["conditions"]
            ]
            return conditions.count(("Ready", "True")) == len(members)

        def dns_ready() -> bool:
            url = f"http://127.0.0.1:{DNS_READY_PORT}/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == http.client.OK)

        wait("apiserver", "the nodes' readiness", nodes_ready)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait("controller-manager", "the default service account", lambda: bool(plane.get(account)))
        wait("coredns", "the readiness of DNS", dns_ready)
