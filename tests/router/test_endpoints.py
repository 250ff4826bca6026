"""The registry: what stays, what is withdrawn, and who is a candidate."""

from __future__ import annotations

import pytest

from octavo_router.endpoints import Address, Endpoint, Registry
from octavo_router.errors import UnknownModelError
from octavo_router.metrics import Figures
from octavo_router.routing import Deployment

ONE, TWO, THREE = (Address(f"10.0.0.{n}", 8000, f"uid-{n}") for n in (1, 2, 3))
M = {"ns/m": Deployment("ns/m", "m", ("alias",), "2026-01-01T00:00:00Z", "ns")}


class Known:
    def __init__(self) -> None:
        self.withdrawn: list[str] = []
        self.registry = Registry(Figures(), lambda endpoint: self.withdrawn.append(endpoint.address))


def test_pods_and_deployments_may_come_in_either_order() -> None:
    for order in ((0, 1), (1, 0)):
        registry = Known().registry
        steps = (lambda r=registry: r.set_deployments(M), lambda r=registry: r.set_addresses("ns/m", [ONE]))
        for step in order:
            steps[step]()
        assert [e.address for e in registry.resolve("alias").ready] == ["10.0.0.1:8000"]


def test_pods_that_stay_keep_their_state_and_those_that_go_are_withdrawn() -> None:
    known = Known()
    known.registry.set_deployments(M)
    known.registry.set_addresses("ns/m", [ONE, TWO])
    route = known.registry.resolve("m")
    first, second = route.ready
    first.in_flight = 7
    known.registry.set_addresses("ns/m", [ONE, THREE])
    assert route.ready[0] is first
    assert (first.in_flight, first.withdrawn, second.withdrawn) == (7, False, True)
    assert known.withdrawn == ["10.0.0.2:8000"]


def test_a_new_pod_at_an_old_address_starts_anew() -> None:
    known = Known()
    known.registry.set_deployments(M)
    known.registry.set_addresses("ns/m", [ONE])
    (old,) = known.registry.resolve("m").ready
    known.registry.set_addresses("ns/m", [Address(ONE.host, ONE.port, "another")])
    (new,) = known.registry.resolve("m").ready
    assert new is not old
    assert old.withdrawn


def test_a_route_stays_the_same_while_its_deployment_lives() -> None:
    registry = Known().registry
    registry.set_deployments(M)
    route = registry.resolve("m")
    registry.set_deployments(M | {"ns/n": Deployment("ns/n", "n")})
    assert registry.resolve("m") is route
    registry.set_deployments({})
    with pytest.raises(UnknownModelError, match="none is deployed yet"):
        registry.resolve("m")


def test_cards_tell_age_namespace_and_root() -> None:
    registry = Known().registry
    registry.set_deployments(M)
    alias, served = registry.cards()
    assert (alias.id, alias.root, alias.owned_by, alias.created) == ("alias", "m", "ns", 1767225600)
    assert (served.id, served.root) == ("m", "m")
    assert registry.card("ns/m").id == "ns/m"


def test_candidates_are_untried_and_not_ejected_unless_nothing_else_is_left() -> None:
    registry = Known().registry
    registry.set_deployments(M)
    registry.set_addresses("ns/m", [ONE, TWO, THREE])
    route = registry.resolve("m")
    one, two, three = route.ready

    def candidates(*tried: Endpoint) -> set[Endpoint]:
        return set(route.candidates(10.0, tried))

    assert candidates() == {one, two, three}
    route.eject(two, 11.0)
    assert candidates() == {one, three}
    assert candidates(one) == {three}
    assert candidates(one, three) == {two}, "an ejected pod is better than none"
    assert candidates(one, two, three) == set()


def test_ipv6_addresses_are_written_in_brackets() -> None:
    assert Endpoint(Address("fd00::1", 8000)).address == "[fd00::1]:8000"
