"""What EndpointSlices and LLMDeployments mean to the router."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from octavo_router.endpoints import Address
from octavo_router.objects import EndpointSlice, LLMDeployment, merge
from octavo_router.routing import Deployment

SLICE: dict[str, Any] = {
    "metadata": {"name": "s", "namespace": "ns", "labels": {"octavo.dev/deployment": "m"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.0.0.1", "10.0.0.9"], "targetRef": {"uid": "u"}}],
    "ports": [{"name": "http", "port": 8000}],
}


def read(**changes: Any) -> EndpointSlice:
    return msgspec.convert(SLICE | changes, EndpointSlice)


CONDITIONS: dict[str, tuple[dict[str, bool | None], bool]] = {
    "ready": ({"ready": True, "serving": True, "terminating": False}, True),
    "nothing known": ({}, True),
    "all unset": ({"ready": None, "serving": None, "terminating": None}, True),
    "not ready": ({"ready": False}, False),
    "not serving": ({"ready": True, "serving": False}, False),
    "terminating but still serving": ({"ready": False, "serving": True, "terminating": True}, False),
    "terminating and said to be ready": ({"ready": True, "serving": True, "terminating": True}, False),
}


@pytest.mark.parametrize(("conditions", "takes"), CONDITIONS.values(), ids=CONDITIONS)
def test_new_requests_for_a_pod_that_is(conditions: dict[str, bool | None], takes: bool) -> None:
    found = read(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]).addresses("http")
    assert bool(found) is takes


PORTS: dict[str, tuple[list[dict[str, Any]], int | None]] = {
    "the named one": ([{"name": "metrics", "port": 9}, {"name": "http", "port": 8000}], 8000),
    "the only one": ([{"name": "", "port": 7000}], 7000),
    "none of several": ([{"name": "a", "port": 1}, {"name": "b", "port": 2}], None),
    "none at all": ([], None),
}


@pytest.mark.parametrize(("ports", "port"), PORTS.values(), ids=PORTS)
def test_the_port_is(ports: list[dict[str, Any]], port: int | None) -> None:
    expected = {Address("10.0.0.1", port, "u")} if port else set()
    assert read(ports=ports).addresses("http") == expected


def test_slices_of_names_are_passed_over() -> None:
    assert read(addressType="FQDN").addresses("http") == frozenset()


def test_a_slice_belongs_to_the_deployment_of_its_label() -> None:
    assert read().deployment_key == "ns/m"


def test_a_pod_with_two_families_counts_once_by_its_ipv4_address() -> None:
    six, four = Address("fd00::1", 8000, "u"), Address("10.0.0.1", 8000, "u")
    other = Address("fd00::2", 8000, "v")
    assert merge([frozenset([six, other]), frozenset([four])]) == [four, other]


def test_a_deployment_is_named_by_its_resource_unless_it_says_otherwise() -> None:
    meta = {"name": "m", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"}
    plain = msgspec.convert({"metadata": meta, "spec": {}}, LLMDeployment).deployment()
    named = {"servedName": "llama", "aliases": ["gpt"], "model": {"source": "x"}}
    other = msgspec.convert({"metadata": meta, "spec": named}, LLMDeployment).deployment()
    assert (plain.key, plain.served_name, plain.aliases, plain.idle, plain.stalled) == (
        "ns/m",
        "m",
        (),
        False,
        "",
    )
    assert (other.key, other.served_name, other.aliases, other.owner) == ("ns/m", "llama", ("gpt",), "ns")


def told(*conditions: dict[str, str]) -> Deployment:
    body = {"metadata": {"name": "m", "namespace": "ns"}, "status": {"conditions": conditions}}
    return msgspec.convert(body, LLMDeployment).deployment()


def test_what_the_conditions_say_of_a_model_without_pods_is_read() -> None:
    zero = {"type": "Ready", "status": "True", "reason": "ScaledToZero", "message": "idle"}
    stuck = {"type": "Stalled", "status": "True", "reason": "DownloadRefused", "message": "no access" * 100}
    going = {**stuck, "status": "False"}
    assert told(zero, going).idle and not told(zero, going).stalled
    assert not told(stuck).idle and told(stuck).stalled == ("no access" * 100)[:500]
    assert told({**stuck, "message": ""}).stalled == "DownloadRefused"
