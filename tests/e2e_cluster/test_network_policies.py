"""The policies of a test cluster as rules of nftables."""

from typing import Any

from e2e.cluster.network_policies import rules


def pod(namespace: str, address: str, **labels: str) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8000}]
    return {
        "metadata": {"namespace": namespace, "labels": labels},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": address},
    }


PEER = {
    "namespaceSelector": {"matchLabels": {"name": "system"}},
    "podSelector": {"matchLabels": {"app": "router"}},
}
POLICY = {
    "metadata": {"namespace": "ml"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "engine"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [PEER], "ports": [{"protocol": "TCP", "port": "http"}]}],
        "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}],
    },
}
SPACES = [{"metadata": {"name": name, "labels": {"name": name}}} for name in ("ml", "system")]
ENGINE = pod("ml", "10.0.0.1", app="engine")


def accepted(*pods: dict[str, Any]) -> list[str]:
    lines = rules([POLICY], pods, SPACES).splitlines()
    return [line.strip() for line in lines if line.endswith("accept") and "established" not in line]


def test_only_the_named_peer_reaches_the_selected_pods_port() -> None:
    peer, same_labels = pod("system", "10.0.0.2", app="router"), pod("ml", "10.0.0.3", app="router")
    assert accepted(ENGINE, peer, same_labels) == [
        "ip daddr { 10.0.0.1 } ip saddr { 10.0.0.2 } tcp dport 8000 accept",
        "ip saddr { 10.0.0.1 } udp dport 53 accept",
    ]


def test_without_a_peer_nobody_reaches_them() -> None:
    assert accepted(ENGINE) == ["ip saddr { 10.0.0.1 } udp dport 53 accept"]
    assert "ip daddr { 10.0.0.1 } drop" in rules([POLICY], [ENGINE], SPACES)


def test_pods_that_no_policy_selects_are_left_alone() -> None:
    assert "drop" not in rules([POLICY], [pod("ml", "10.0.0.9", app="other")], SPACES)
