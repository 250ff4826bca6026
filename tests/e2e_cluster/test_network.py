"""Addresses of nodes, pods and Services."""

import ipaddress

import pytest
from e2e.cluster import network
from e2e.cluster.control_plane import FIRST_SERVICE_IP, SERVICE_NET
from e2e.cluster.errors import ClusterError

LONGEST_LINK_NAME = 15  # IFNAMSIZ - 1


def test_no_two_nodes_share_an_address_or_a_range() -> None:
    members = network.nodes(network.MAX_NODES)
    assert len({node.address for node in members}) == len(members)
    assert len({node.pods for node in members}) == len(members)


def test_all_addresses_lie_in_the_route_of_the_cluster() -> None:
    everything = ipaddress.ip_network(network.ALL)
    for node in network.nodes(network.MAX_NODES):
        assert ipaddress.ip_address(node.address) in everything
        assert ipaddress.ip_network(node.pods).subnet_of(ipaddress.ip_network(network.PODS))
    assert ipaddress.ip_network(SERVICE_NET).subnet_of(everything)
    assert ipaddress.ip_address(FIRST_SERVICE_IP) in ipaddress.ip_network(SERVICE_NET)


def test_link_names_fit_the_kernel() -> None:
    assert max(len(node.link) for node in network.nodes(network.MAX_NODES)) <= LONGEST_LINK_NAME


@pytest.mark.parametrize("count", [0, -1, network.MAX_NODES + 1])
def test_a_cluster_without_nodes_or_with_too_many_is_refused_with_the_count(count: int) -> None:
    with pytest.raises(ClusterError, match=f"cluster of {count} nodes"):
        network.nodes(count)
