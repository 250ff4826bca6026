"""SIGKILL for a container's first process, which no process inside of the container can send."""

import subprocess

from e2e.cluster.cluster import Cluster
from e2e.kubectl import Kubectl


def kill_container(cluster: Cluster, kubectl: Kubectl, pod: str, namespace: str) -> None:
    """`kill -9` of the pod's only container, on its node."""
    found = kubectl.get("pod", pod, namespace=namespace)
    container = found["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node = next(node for node in cluster.nodes if node.name == found["spec"]["nodeName"])
    enter = ["nsenter", "-t", str(cluster.node_pid(node)), "-m", "-p"]
    tasks = subprocess.run([*enter, "ctr", "-n", "k8s.io", "tasks", "ls"], capture_output=True, check=True)
    rows = (line.split() for line in tasks.stdout.decode().splitlines())
    pid = next(row[1] for row in rows if row[0] == container)
    subprocess.run([*enter, "kill", "-9", pid], check=True)
