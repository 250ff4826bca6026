"""Two replicas: one works, the other takes over without a needless write."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

LEASE = "/apis/coordination.k8s.io/v1/namespaces/octavo-system/leases/octavo-operator"
MERGE = {"Content-Type": "application/merge-patch+json"}
MODELS = 3


def leads(operator: Any) -> bool:
    return bool(operator.metric("octavo_operator_leader") == 1)


def holder(kube: Any) -> str:
    found: str = kube.request("GET", LEASE)["spec"].get("holderIdentity", "")
    return found


def versions(kube: Any, namespace: str) -> dict[str, str]:
    """The resource version of every child."""
    kinds = ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget")
    found = {f"{kind} {n}": kube.get(kind, namespace, f"m{n}") for kind in kinds for n in range(MODELS)}
    return {name: item["metadata"]["resourceVersion"] for name, item in found.items()}


@pytest.fixture
def namespace(kube: Any) -> str:
    found: str = kube.namespace()
    return found


@pytest.fixture(params=["its namespace", "all namespaces"])
def pair(
    request: pytest.FixtureRequest, kube: Any, namespace: str, new_operator: Any, body: Callable[..., Any]
) -> Iterator[tuple[Any, Any]]:
    """A leader that has made some models, and a standby."""
    scope = {"OCTAVO_WATCH_NAMESPACES": namespace} if request.param == "its namespace" else {}
    first = new_operator(OCTAVO_IDENTITY="first", **scope)
    kube.wait("the first to lead", lambda: leads(first))
    second = new_operator(OCTAVO_IDENTITY="second", **scope)
    for number in range(MODELS):
        kube.create("LLMDeployment", body(namespace, f"m{number}")).raise_for_status()
    for number in range(MODELS):
        kube.wait_reason(namespace, f"m{number}", "Loading")
    assert (holder(kube), leads(second), second.writes) == ("first", False, 0)
    yield first, second
    for operator in (first, second):
        if operator.process.poll() is None:
            assert operator.stop() == 0


def follows(kube: Any, body: Callable[..., Any], namespace: str) -> None:
    """Wait until somebody has acted on a new model."""
    kube.create("LLMDeployment", body(namespace, "late")).raise_for_status()
    kube.wait_reason(namespace, "late", "Loading")


def test_sigterm_hands_over_at_once(
    kube: Any, pair: tuple[Any, Any], namespace: str, body: Callable[..., Any]
) -> None:
    first, second = pair
    before = versions(kube, namespace)
    first.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    kube.wait("the second to lead", lambda: leads(second))
    assert time.monotonic() - began < 5  # it would run out after 14
    assert first.process.wait(20) == 0
    kube.wait("rest", lambda: second.metric("octavo_operator_reconciles_total") >= MODELS)
    assert [r for r in second.requests if 'kind="Lease"' not in r and 'verb="P' in r] == []
    assert versions(kube, namespace) == before
    follows(kube, body, namespace)
    assert kube.request("GET", LEASE)["spec"]["leaseTransitions"] >= 1


@pytest.mark.parametrize("pair", ["all namespaces"], indirect=True)
def test_the_standby_takes_over_from_a_killed_leader_within_15_seconds(
    kube: Any, pair: tuple[Any, Any], namespace: str, body: Callable[..., Any]
) -> None:
    first, second = pair
    before = versions(kube, namespace)
    first.process.kill()
    began = time.monotonic()
    kube.create("LLMDeployment", body(namespace, "late")).raise_for_status()
    kube.wait_reason(namespace, "late", "Loading")
    assert time.monotonic() - began < 16  # 15 on a calm machine
    assert leads(second)
    assert versions(kube, namespace) == before


@pytest.mark.parametrize("pair", ["its namespace"], indirect=True)
def test_a_leader_that_has_slept_through_its_lease_ends(
    kube: Any, pair: tuple[Any, Any], namespace: str, body: Callable[..., Any]
) -> None:
    first, second = pair
    first.process.send_signal(signal.SIGSTOP)
    kube.wait("the second to lead", lambda: leads(second))
    follows(kube, body, namespace)
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(20) == 1
    assert "octavo-operator: the Lease octavo-system/octavo-operator was lost" in first.log.splitlines()[-1]
    assert holder(kube) == "second"


def test_a_lease_edited_by_hand_is_kept_and_a_deleted_one_made_again(kube: Any, new_operator: Any) -> None:
    operator = new_operator(OCTAVO_IDENTITY="only")
    kube.wait("it to lead", lambda: leads(operator))
    mark = {"metadata": {"annotations": {"note": "looked at"}}}
    kube.http.patch(LEASE, json=mark, headers=MERGE).raise_for_status()
    edited = kube.request("GET", LEASE)["spec"]["renewTime"]
    kube.wait("a renewal", lambda: kube.request("GET", LEASE)["spec"]["renewTime"] != edited)
    kube.http.delete(LEASE).raise_for_status()
    kube.wait("a new Lease", lambda: kube.http.get(LEASE).is_success and holder(kube) == "only")
    assert leads(operator)
    assert operator.stop() == 0
    assert holder(kube) == ""


def test_without_a_lease_there_is_one_replica(kube: Any, new_operator: Any) -> None:
    operator = new_operator(OCTAVO_LEASE="", OCTAVO_WATCH_NAMESPACES="default")
    assert not any('kind="Lease"' in line for line in operator.requests)
    assert operator.stop() == 0
