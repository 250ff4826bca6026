"""The registry: what stays, what is withdrawn, and who is a candidate."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from octavo_router.endpoints import Address, Endpoint
from octavo_router.errors import NoReadyPodError, UnknownModelError
from octavo_router.metrics import Figures
from octavo_router.prompt import Asked, Features
from octavo_router.registry import Registry
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
    assert route.failed(two, 9.0)
    assert candidates() == {one, three}
    assert candidates(one) == {three}
    assert candidates(one, three) == {two}, "an ejected pod is better than none"
    assert candidates(one, two, three) == set()


def test_ipv6_addresses_are_written_in_brackets() -> None:
    assert Endpoint(Address("fd00::1", 8000)).address == "[fd00::1]:8000"


def test_faults_set_no_more_than_half_of_the_pods_aside() -> None:
    registry = Known().registry
    registry.set_deployments(M)
    registry.set_addresses("ns/m", [ONE, TWO, THREE])
    route = registry.resolve("m")
    aside = [sum(route.faulted(pod, 1.0) for _ in range(9)) for pod in route.ready]
    assert aside == [1, 0, 0]
    assert route.candidates(1.5, ()) == list(route.ready[1:])
    route.succeeded(route.ready[0])
    assert route.candidates(1.5, ()) is route.ready


def test_what_the_engine_tells_replaces_what_was_counted_but_not_own_requests() -> None:
    pod = Endpoint(ONE)
    pod.enter(0)
    pod.report(5, 1.0)
    pod.enter(1.0)
    assert (pod.in_flight, pod.load) == (2, 6)
    pod.report(0, 2.0)  # told before the two had come
    assert pod.load == 2
    pod.leave()
    pod.leave()
    assert (pod.in_flight, pod.load) == (0, 0)


def asking(model: str, user: str = "") -> Features:
    return Features(Asked(model, user=msgspec.Raw(msgspec.json.encode(user))))


def a_family(**weights: int | None) -> Registry:
    """Deployments of one namespace and one served name, each with a ready pod; the first is the oldest."""
    registry = Known().registry
    registry.set_deployments(
        {
            f"ns/{name}": Deployment(f"ns/{name}", "m", (), f"2026-01-0{n}T00:00:00Z", "ns", weight=weight)
            for n, (name, weight) in enumerate(weights.items(), 1)
        }
    )
    for n, name in enumerate(weights, 1):
        registry.set_addresses(f"ns/{name}", [Address(f"10.0.1.{n}", 8000)])
    return registry


def drawn(registry: Registry, count: int = 1000) -> Counter[str]:
    return Counter(registry.route(asking("m")).deployment.key for _ in range(count))


def test_a_name_is_shared_by_weights() -> None:
    counts = drawn(a_family(old=90, new=10))
    assert abs(counts["ns/new"] - 100) <= 3
    assert drawn(a_family(old=None, new=None)) == {"ns/old": 1000}
    assert drawn(a_family(old=None, new=0)) == {"ns/old": 1000}
    assert drawn(a_family(old=0, new=1)) == {"ns/new": 1000}


def test_a_session_stays_with_its_deployment() -> None:
    registry = a_family(old=50, new=50)
    keys = [{registry.route(asking("m", f"u{n}")).deployment.key for _ in range(5)} for n in range(200)]
    assert all(len(seen) == 1 for seen in keys)
    assert 60 < sum(seen == {"ns/new"} for seen in keys) < 140


def test_a_share_without_a_ready_pod_goes_to_the_others() -> None:
    registry = a_family(old=50, new=50)
    registry.set_addresses("ns/new", [])
    assert drawn(registry) == {"ns/old": 1000}
    registry.set_addresses("ns/old", [])
    assert registry.route(asking("m")).deployment.key == "ns/old"


def test_the_full_name_is_never_shared() -> None:
    registry = a_family(old=0, new=100)
    assert registry.route(asking("ns/old")).deployment.key == "ns/old"


def woken(registry: Registry) -> set[str]:
    """What the registry asks for from now on."""
    wanted: set[str] = set()
    registry.on_wanted = lambda route: wanted.add(route.deployment.key)
    return wanted


def lie_down(registry: Registry, *keys: str, stalled: str = "") -> None:
    """They sleep from now on, without a pod."""
    deployments = {r.deployment.key: r.deployment for r in registry.routes()}
    asleep = {key: msgspec.structs.replace(deployments[key], sleeps=True, stalled=stalled) for key in keys}
    registry.set_deployments(deployments | asleep)
    for key in keys:
        registry.set_addresses(key, [])


@pytest.mark.parametrize(("sleeper", "awake"), [("ns/old", "ns/new"), ("ns/new", "ns/old")])
def test_who_shares_a_name_and_sleeps_is_woken_while_the_others_answer(sleeper: str, awake: str) -> None:
    registry = a_family(old=50, new=50)
    lie_down(registry, sleeper)
    wanted = woken(registry)
    assert drawn(registry, 9) == {awake: 9}
    assert wanted == {sleeper}


def test_who_shares_a_name_with_no_weight_is_let_sleep() -> None:
    registry = a_family(old=50, new=0)
    lie_down(registry, "ns/new")
    wanted = woken(registry)
    assert drawn(registry, 9) == {"ns/old": 9}
    assert not wanted


def test_who_cannot_be_started_is_neither_woken_nor_waited_for() -> None:
    registry = a_family(old=50, new=50)
    lie_down(registry, "ns/old")
    lie_down(registry, "ns/new", stalled="no access")
    wanted = woken(registry)
    assert drawn(registry, 9) == {"ns/old": 9}
    assert wanted == {"ns/old"}


def test_when_all_who_share_a_name_sleep_each_holds_its_share() -> None:
    registry = a_family(old=90, new=10)
    lie_down(registry, "ns/old", "ns/new")
    wanted = woken(registry)
    assert abs(drawn(registry)["ns/new"] - 100) <= 3
    assert wanted == {"ns/old", "ns/new"}


def test_an_owner_without_a_pod_leaves_its_share_to_who_sleeps() -> None:
    registry = a_family(old=90, new=10)
    registry.set_addresses("ns/old", [])
    lie_down(registry, "ns/new")
    assert drawn(registry, 9) == {"ns/new": 9}


def chained_by_fallback(**fallbacks: str | None) -> Registry:
    registry = Known().registry
    registry.set_deployments({n: Deployment(n, n, fallback=fallback) for n, fallback in fallbacks.items()})
    return registry


def test_of_fallbacks_without_a_ready_pod_the_first_that_sleeps_is_woken_and_gets_the_request() -> None:
    registry = chained_by_fallback(a="b", b="c", c="d", d=None)
    lie_down(registry, "b", "d")
    wanted = woken(registry)
    assert registry.route(asking("a")).deployment.key == "b"
    registry.set_addresses("c", [THREE])
    assert registry.route(asking("a")).deployment.key == "c", "it answers while b wakes"
    assert wanted == {"b"}
    registry.set_addresses("a", [ONE])
    wanted.clear()
    registry.route(asking("a"))
    assert not wanted


def test_a_fallback_serves_only_while_there_is_no_ready_pod() -> None:
    registry = chained_by_fallback(a="b", b="c", c=None)
    registry.set_addresses("c", [THREE])
    assert registry.route(asking("a")).deployment.key == "c"
    registry.set_addresses("b", [TWO])
    assert registry.route(asking("a")).deployment.key == "b"
    registry.set_addresses("a", [ONE])
    assert registry.route(asking("a")).deployment.key == "a"


def test_without_any_ready_pod_the_model_itself_is_answered_for() -> None:
    assert chained_by_fallback(a="b", b=None).route(asking("a")).deployment.key == "a"


def test_fallbacks_that_lead_nowhere_are_refused_in_words() -> None:
    with pytest.raises(NoReadyPodError, match=r"circle \(a -> b -> a\).*spec.routing.fallback"):
        chained_by_fallback(a="b", b="a").route(asking("a"))
    with pytest.raises(NoReadyPodError, match=r"'b' has no ready pod, and its fallback 'x' does not exist"):
        chained_by_fallback(a="b", b="x").route(asking("a"))
