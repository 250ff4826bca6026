"""The CRD is what the operator decodes, and what the engine can be told."""

import typing
from typing import Any

import msgspec
import pytest

from octavo_operator import api

STRUCTS = {
    "": api.Spec,
    "model": api.Model,
    "model.cache": api.Cache,
    "routing": api.Routing,
    "engine": api.Engine,
    "parallelism": api.Parallelism,
    "resources": api.Resources,
    "autoscaling": api.Autoscaling,
    "rollout": api.Rollout,
    "scheduling": api.Scheduling,
    "podTemplate": api.PodTemplate,
    "podTemplate.metadata": api.TemplateMetadata,
}


def schema_at(crd: dict[str, Any], path: str) -> dict[str, Any]:
    node: dict[str, Any] = crd["spec"]
    for name in filter(None, path.split(".")):
        node = node["properties"][name]
    return node


@pytest.mark.parametrize(("path", "struct"), list(STRUCTS.items()), ids=[f"spec.{path}" for path in STRUCTS])
def test_the_operator_decodes_every_field_of(
    path: str, struct: type[msgspec.Struct], crd: dict[str, Any]
) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    schema = schema_at(crd, path)
    assert fields.keys() == schema["properties"].keys()
    assert {name for name, field in fields.items() if field.required} == set(schema.get("required", []))


@pytest.mark.parametrize(("path", "struct"), list(STRUCTS.items()), ids=[f"spec.{path}" for path in STRUCTS])
def test_the_operator_has_the_defaults_of(
    path: str, struct: type[msgspec.Struct], crd: dict[str, Any]
) -> None:
    properties = schema_at(crd, path)["properties"]
    decoded = {field.encode_name: field.default for field in msgspec.structs.fields(struct)}
    declared = {name: node["default"] for name, node in properties.items() if "default" in node}
    assert declared.items() <= decoded.items()


def test_every_part_of_the_spec_is_compared() -> None:
    structs = {hint for hint in typing.get_type_hints(api.Spec).values() if isinstance(hint, type)}
    parts = {hint for hint in structs if issubclass(hint, msgspec.Struct)}
    assert parts <= set(STRUCTS.values())


def test_the_operator_writes_every_field_of_the_status(crd: dict[str, Any]) -> None:
    status = crd["status"]
    assert status["properties"].keys() == {field.encode_name for field in msgspec.structs.fields(api.Status)}
    condition = status["properties"]["conditions"]["items"]
    download = status["properties"]["download"]
    assert download["properties"].keys() == {
        field.encode_name for field in msgspec.structs.fields(api.Download)
    }
    assert condition["properties"].keys() == {
        field.encode_name for field in msgspec.structs.fields(api.Condition)
    }
