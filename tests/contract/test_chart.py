"""The chart speaks to the operator and the router in their own words."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from manifests.render import CHART, plain_objects

from octavo_operator.api import PodDefaults, ScalingDefaults
from octavo_operator.kinds import CHILDREN
from octavo_operator.scaling.samples import METRICS
from octavo_operator.settings import (
    LogFormat,
    LogLevel,
    PullPolicy,
    network_access,
    pod_defaults,
    read,
    scaling_defaults,
)
from octavo_operator.settings import Settings as OperatorSettings
from octavo_router.settings import Settings as RouterSettings

Containers = dict[str, dict[str, Any]]
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
OPERATOR_FIELDS = {field.name for field in msgspec.structs.fields(OperatorSettings)}


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The container's variables; those that Kubernetes fills in are filled in with `filled`."""
    return {entry["name"]: entry.get("value", "filled") for entry in container["env"]}


def settings_named(container: dict[str, Any]) -> set[str]:
    names = {name for name in environment(container) if name.startswith("OCTAVO_")}
    assert names
    return {name.removeprefix("OCTAVO_").lower() for name in names}


def test_the_operator_knows_every_setting_that_the_chart_gives(containers: Containers) -> None:
    assert settings_named(containers["operator"]) - OPERATOR_FIELDS == set()


def test_the_router_knows_every_setting_that_the_chart_gives(containers: Containers) -> None:
    assert settings_named(containers["router"]) - set(RouterSettings.model_fields) == set()


def test_the_largest_body_of_the_chart_is_what_the_router_can_hold() -> None:
    most = SCHEMA["properties"]["router"]["properties"]["maxBodyBytes"]["maximum"]
    assert most == RouterSettings.load({}).max_buffered_bytes
    assert RouterSettings.load({"OCTAVO_MAX_BODY_BYTES": str(most)}).max_body_bytes == most


def test_the_operator_takes_the_charts_values(containers: Containers) -> None:
    settings = read(environment(containers["operator"]))
    assert settings.namespace == "filled"
    assert settings.engine_image == "octavo-engine:0.1.0"
    assert settings.engine_cuda_image == "octavo-engine-cuda:0.1.0"
    assert settings.service_name == "octavo-operator"
    assert settings.watch_namespaces == ()
    assert settings.metrics_api is True


def test_the_router_takes_the_charts_values(containers: Containers) -> None:
    settings = RouterSettings.load(environment(containers["router"]))
    values = yaml.safe_load((CHART / "values.yaml").read_text())["router"]["drain"]
    assert (settings.lame_duck, settings.drain_timeout) == (
        values["endpointSeconds"],
        values["streamSeconds"],
    )


@pytest.mark.parametrize("level", SCHEMA["properties"]["logging"]["properties"]["level"]["enum"])
def test_every_log_level_of_the_chart_is_one_of_both_programs(level: str) -> None:
    assert level in get_args(LogLevel)
    assert RouterSettings.load({"OCTAVO_LOG_LEVEL": level}).log_level == level


def test_every_choice_of_the_chart_is_one_of_the_operators() -> None:
    logging, engine = (SCHEMA["properties"][part]["properties"] for part in ("logging", "engine"))
    assert set(logging["format"]["enum"]) == set(get_args(LogFormat))
    assert set(engine["pullPolicy"]["enum"]) == set(get_args(PullPolicy))


def test_pod_defaults_have_the_same_fields_in_chart_and_operator() -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(PodDefaults)}
    assert SCHEMA["definitions"]["podTemplate"]["properties"].keys() == fields


def test_the_operator_takes_the_charts_pod_defaults(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    (settings,) = [item["data"] for item in objects if item["kind"] == "ConfigMap"]
    file = tmp_path / "pod-defaults.yaml"
    file.write_text(settings["pod-defaults.yaml"])
    assert pod_defaults(str(file)) == PodDefaults()


def test_the_operator_takes_the_charts_scaling_defaults(
    objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    (settings,) = [item["data"] for item in objects if item["kind"] == "ConfigMap"]
    file = tmp_path / "scaling-defaults.yaml"
    file.write_text(settings["scaling-defaults.yaml"])
    found = scaling_defaults(str(file))
    assert msgspec.structs.replace(found, behavior=None) == ScalingDefaults()
    declared = SCHEMA["properties"]["operator"]["properties"]["scalingDefaults"]["properties"]
    assert declared.keys() == {field.encode_name for field in msgspec.structs.fields(ScalingDefaults)}


@pytest.mark.parametrize("enabled", [False, True])
def test_the_operator_takes_the_charts_network_access(tmp_path: Path, enabled: bool) -> None:
    objects = plain_objects(f"networkPolicy.enabled={str(enabled).lower()}")
    (settings,) = [item["data"] for item in objects if item["kind"] == "ConfigMap"]
    file = tmp_path / "network-access.yaml"
    file.write_text(settings["network-access.yaml"])
    peers = network_access(str(file)).engine_clients
    names = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in peers or []]
    assert names == (["octavo-router", "octavo-operator"] if enabled else [])


def test_the_pods_ports_are_those_that_the_programs_listen_on(containers: Containers, contract: str) -> None:
    ports = {
        name: {port["containerPort"] for port in container["ports"]} for name, container in containers.items()
    }
    operator, router = OperatorSettings(engine_image="x"), RouterSettings.load({})
    assert (
        ports["operator"] == {operator.http_port, operator.metrics_port} == ports_of(contract, "The operator")
    )
    assert ports["router"] == {router.port, router.admin_port} == ports_of(contract, "The router")


def ports_of(contract: str, part: str) -> set[int]:
    section = contract.partition(f"## {part}\n")[2].partition("\n## ")[0]
    return {int(port) for port in re.findall(r"[Pp]ort (\d+)", section)}


def test_the_probes_ask_what_the_contract_names(containers: Containers, contract: str) -> None:
    for container in containers.values():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            assert f"`{path}`" in contract


def test_the_images_are_those_of_the_contract(containers: Containers, contract: str) -> None:
    images = {container["image"] for container in containers.values()}
    images |= {
        value for name, value in environment(containers["operator"]).items() if name.endswith("_IMAGE")
    }
    section = contract.split("## Images\n")[1]
    assert {image.split(":")[0] for image in images} == set(re.findall(r"`(octavo-[a-z-]+)`", section))


def test_the_autoscaler_may_read_just_the_metrics_that_the_operator_names(
    objects: list[dict[str, Any]],
) -> None:
    (rule,) = rules_of(objects, "octavo-operator-metrics-reader")
    assert set(rule["resources"]) == {f"pods/{metric}" for metric in METRICS}


def test_the_operator_may_write_just_the_kinds_of_child_that_it_makes(objects: list[dict[str, Any]]) -> None:
    granted = {
        (group, resource)
        for rule in rules_of(objects, "octavo-operator")
        if "create" in rule["verbs"] and rule["resources"] != ["events"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(kind.api_version.rpartition("/")[0], kind.plural) for kind in CHILDREN.values()}


def rules_of(objects: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    roles = [item for item in objects if item["kind"].endswith("Role") and item["metadata"]["name"] == name]
    assert roles
    return [rule for role in roles for rule in role["rules"]]


def test_the_chart_grants_what_the_operators_page_lists(
    objects: list[dict[str, Any]], operator_doc: str
) -> None:
    """Cells are `group` | `resources` | verbs, the last three of a row."""
    section = operator_doc.partition("## Permissions\n")[2].partition("\n## ")[0]
    rows = [
        line.strip("| \n").split(" | ")[-3:]
        for line in section.splitlines()
        if line.startswith("| ") and "`" in line
    ]
    listed = {
        (group.strip('`"'), resource, verb.strip())
        for group, resources, verbs in rows
        for resource in re.findall(r"`([a-z/]+)`", resources.split(" named ")[0])
        for verb in verbs.split(",")
    }
    names = (
        "octavo-operator",
        "octavo-operator-certificate",
        "octavo-operator-lease",
        "octavo-operator-metrics-api",
    )
    granted = {
        (group, resource, verb)
        for name in names
        for rule in rules_of(objects, name)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    delegated = {  # by the cluster's own roles, to which the chart binds
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
        ("", "configmaps", "get"),
    }
    assert granted | delegated == listed
