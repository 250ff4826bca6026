"""The values schema: complete, strict, and clear when it refuses."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.go_programs import program

CHART = Path(__file__).parents[2] / "helm" / "octavo"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

REFUSED = {
    "a misspelt value": ("router.replica=3", "additional properties 'replica' not allowed"),
    "a misspelt part": ("routers={}", "additional properties 'routers' not allowed"),
    "a number in words": ('router.replicas="two"', "'/router/replicas': got string, want integer"),
    "a body that is never taken": ("router.maxBodyBytes=1073741824", "'/router/maxBodyBytes': maximum"),
    "a share that rounds to nothing": (
        "operator.scalingDefaults.kvCacheUsage=0.0001",
        "'/operator/scalingDefaults/kvCacheUsage': minimum: got 0.0001, want 0.01",
    ),
    "a name that Services cannot have": (
        f'fullnameOverride="{"n" * 51}"',
        "'/fullnameOverride': maxLength: got 51, want 50",
    ),
    "a negative number of pods": ("router.replicas=-1", "'/router/replicas': minimum"),
    "a registry with a scheme": (
        'image.registry="https://r.example"',
        "'/image/registry': 'https://r.example' does not",
    ),
    "a tag inside the repository": (
        'router.image.repository="r:1"',
        "'/router/image/repository': 'r:1' does not match",
    ),
    "a digest that is none": (
        'operator.image.digest="sha256:1"',
        "'/operator/image/digest': 'sha256:1' does not match",
    ),
    "an unknown pull policy": (
        'image.pullPolicy="Sometimes"',
        "must be one of 'Always', 'IfNotPresent', 'Never'",
    ),
    "a pull secret by bare name": (
        'image.pullSecrets=["pull"]',
        "'/image/pullSecrets/0': got string, want object",
    ),
    "an unknown log level": ('logging.level="loud"', "must be one of 'debug', 'info', 'warning', 'error'"),
    "an unknown Service type": (
        'router.service.type="ExternalName"',
        "'ClusterIP', 'NodePort', 'LoadBalancer'",
    ),
    "a port that is none": ("router.service.port=70000", "'/router/service/port': maximum"),
    "no time for endpoints": ("router.drain.endpointSeconds=0", "'/router/drain/endpointSeconds': minimum"),
    "a namespace that is none": (
        'watchNamespaces=["A_B"]',
        "'/watchNamespaces/0': 'A_B' does not match pattern",
    ),
    "a namespace named twice": (
        'watchNamespaces=["a", "a"]',
        "'/watchNamespaces': items at 0 and 1 are equal",
    ),
    "a switch in words": ('metricsApi.enabled="yes"', "'/metricsApi/enabled': got string, want boolean"),
    "a label that selectors use": (
        'commonLabels={"app.kubernetes.io/name": "x"}',
        "invalid propertyName 'app.kuber",
    ),
    "an annotation that is a number": ('router.podAnnotations={"a": 1}', "got number, want string"),
    "memory that is no quantity": (
        'router.resources.limits={"memory": "lots"}',
        "'/router/resources/limits/memory'",
    ),
    "an unknown kind of resources": (
        'router.resources={"request": {}}',
        "additional properties 'request' not allowed",
    ),
    "a budget in words": (
        'router.podDisruptionBudget.maxUnavailable="one"',
        "'/router/podDisruptionBudget/maxUnavailable'",
    ),
    "a variable without a name": ('router.extraEnv=[{"value": "x"}]', "missing property 'name'"),
    "a pod template's whole spec as defaults": (
        "operator.podDefaults.spec={}",
        "additional properties 'spec' not",
    ),
    "pod defaults that are no mapping": (
        "operator.podDefaults=[]",
        "'/operator/podDefaults': got array, want object",
    ),
}


@pytest.mark.parametrize(("setting", "words"), REFUSED.values(), ids=list(REFUSED))
def test_refuses(setting: str, words: str, refusal: Callable[..., str]) -> None:
    assert words in refusal(setting)


def schema_nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that the schema knows, by dotted path, with references followed."""
    resolved = SCHEMA["definitions"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
    yield path, {**resolved, **node}
    if node.get("description"):  # a value as a whole, whatever is inside
        return
    for name, child in resolved.get("properties", {}).items():
        yield from schema_nodes(child, f"{path}.{name}".lstrip("."))


def default_paths(values: Any, path: str = "") -> Iterator[str]:
    yield path
    if isinstance(values, dict):
        for name, value in values.items():
            yield from default_paths(value, f"{path}.{name}".lstrip("."))


KNOWN = dict(schema_nodes(SCHEMA))


def test_every_value_of_the_schema_has_a_default() -> None:
    assert KNOWN.keys() - set(default_paths(DEFAULTS)) == {"global"}


def test_every_object_with_known_parts_refuses_unknown_ones() -> None:
    lax = [
        path
        for path, node in KNOWN.items()
        if "properties" in node and node.get("additionalProperties") is not False
    ]
    assert lax == []


def test_every_value_says_what_it_is() -> None:
    leaves = {
        path: node
        for path, node in KNOWN.items()
        if path != "global" and ("description" in node or "properties" not in node)
    }
    assert len(leaves) > 50
    assert [path for path, node in leaves.items() if not node.get("description", "").endswith(".")] == []


def test_helm_lint_finds_no_fault() -> None:
    command: list[str | Path] = [program("helm"), "lint", "--strict", "--kube-version", "1.34.0", CHART]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
