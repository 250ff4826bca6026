"""What the documents and the chart say, for comparison with the code."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests.render import plain_objects

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def contract() -> str:
    """The text of docs/contract.md."""
    return (ROOT / "docs" / "contract.md").read_text()


@pytest.fixture(scope="session")
def operator_doc() -> str:
    """The text of docs/operator.md."""
    return (ROOT / "docs" / "operator.md").read_text()


@pytest.fixture(scope="session")
def objects() -> list[dict[str, Any]]:
    """All objects of the chart with default values."""
    return plain_objects()


@pytest.fixture(scope="session")
def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The chart's containers by name: operator and router."""
    specs = [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"]
    return {container["name"]: container for spec in specs for container in spec["containers"]}


@pytest.fixture(scope="session")
def crd() -> dict[str, Any]:
    """The OpenAPI schemas of `spec` and `status` in the CRD."""
    file = ROOT / "crds" / "llmdeployments.octavo.dev.yaml"
    (version,) = yaml.safe_load(file.read_text())["spec"]["versions"]
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return properties
