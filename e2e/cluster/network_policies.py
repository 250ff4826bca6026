"""NetworkPolicies of a test cluster: rules of nftables in each node, made from what the API server has.

All traffic of pods is routed through their node, so its `forward` hook sees it; a kubelet's own probes do not
pass there. Policies are read once, when `enforce` is called. Known are the parts that Octavo's policies have:
peers by pod and namespace labels, and ports by number or name.
"""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from e2e.cluster.errors import ClusterError

Object = Mapping[str, Any]
PeersOf = Callable[[Iterable[Object]], list[Object]]
TABLE = "octavo_policies"


def enforce(node_pid: int, text: str) -> None:
    """Lay the rules over the node whose first process is `node_pid`, in place of former ones.

    Raises:
        ClusterError: nft does not take them.
    """
    done = _within(node_pid, "nft", "-f", "-", text=text)
    if done.returncode:
        raise ClusterError(f"nft refused the policies: {done.stderr.strip()[-300:]}")


def judge_again(node_pid: int, address: str) -> None:
    """Have connections to `address` that are open go by the policies too, as if they were new.

    Raises:
        ClusterError: conntrack cannot be run.
    """
    done = _within(node_pid, "conntrack", "-D", "-d", address)
    if "have been deleted" not in done.stderr:  # it fails as well when there were none
        raise ClusterError(f"conntrack does not forget connections: {done.stderr.strip()[-300:]}")


def _within(node_pid: int, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = ["nsenter", "-t", str(node_pid), "-m", "-n", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def removal() -> str:
    """What undoes `rules`."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"


def rules(policies: Iterable[Object], pods: Iterable[Object], namespaces: Iterable[Object]) -> str:
    """nft's input: what a policy allows is accepted, and all else of the pods that it selects is dropped."""
    running = [p for p in pods if p["status"].get("podIP") and not p["spec"].get("hostNetwork")]
    spaces = {n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in namespaces}
    accepted: list[str] = []
    dropped: list[str] = []
    for policy in policies:
        chosen = [pod for pod in running if _selected(policy, pod)]
        home = policy["metadata"]["namespace"]

        def peers_of(peers: Iterable[Object], home: str = home) -> list[Object]:
            return [p for p in running if any(_is_peer(peer, p, home, spaces) for peer in peers)]

        if chosen and "Ingress" in policy["spec"]["policyTypes"]:
            accepted += _ingress(policy, chosen, peers_of)
            dropped.append(f"{_addresses('daddr', chosen)} drop")
        if chosen and "Egress" in policy["spec"]["policyTypes"]:
            accepted += _egress(policy, chosen, peers_of)
            dropped.append(f"{_addresses('saddr', chosen)} drop")
    lines = "\n  ".join(["ct state established,related accept", *accepted, *dropped])
    hook = "type filter hook forward priority 10;"
    return f"{removal()}table inet {TABLE} {{\n chain forward {{ {hook}\n  {lines}\n }}\n}}\n"


def _ingress(policy: Object, chosen: list[Object], peers_of: PeersOf) -> Iterator[str]:
    for rule in policy["spec"].get("ingress", []):
        if peers := peers_of(rule["from"]):
            way = f"{_addresses('daddr', chosen)} {_addresses('saddr', peers)}"
            yield from _by_ports(way, rule, chosen[0])


def _egress(policy: Object, chosen: list[Object], peers_of: PeersOf) -> Iterator[str]:
    for rule in policy["spec"].get("egress", []):
        if "to" not in rule:
            yield from _by_ports(_addresses("saddr", chosen), rule, chosen[0])
        elif peers := peers_of(rule["to"]):
            way = f"{_addresses('saddr', chosen)} {_addresses('daddr', peers)}"
            yield from _by_ports(way, rule, chosen[0])


def _by_ports(way: str, rule: Object, pod: Object) -> Iterator[str]:
    """Once for each port, and once for all where none is named."""
    if "ports" not in rule:
        yield f"{way} accept"
    for port in rule.get("ports", []):
        number = port["port"] if isinstance(port["port"], int) else _named(pod, port["port"])
        yield f"{way} {port['protocol'].lower()} dport {number} accept"


def _selected(policy: Object, pod: Object) -> bool:
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and _matches(policy["spec"]["podSelector"], pod["metadata"].get("labels", {}))


def _is_peer(peer: Object, pod: Object, home: str, spaces: Mapping[str, Mapping[str, str]]) -> bool:
    space = pod["metadata"]["namespace"]
    near = (
        _matches(peer["namespaceSelector"], spaces[space]) if "namespaceSelector" in peer else space == home
    )
    return near and _matches(peer.get("podSelector", {}), pod["metadata"].get("labels", {}))


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _named(pod: Object, name: str) -> int:
    ports = (port for c in pod["spec"]["containers"] for port in c.get("ports", []))
    return next(int(port["containerPort"]) for port in ports if port.get("name") == name)


def _addresses(side: str, pods: Iterable[Object]) -> str:
    return f"ip {side} {{ {', '.join(pod['status']['podIP'] for pod in pods)} }}"
