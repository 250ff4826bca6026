"""One version, written in several places."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHART: dict[str, Any] = yaml.safe_load((ROOT / "helm" / "octavo" / "Chart.yaml").read_text())


@pytest.mark.parametrize("field", ["version", "appVersion"])
def test_the_chart_has_the_distributions_version(field: str) -> None:
    assert CHART[field] == VERSION


def test_the_images_of_the_chart_are_tagged_with_it(containers: dict[str, dict[str, Any]]) -> None:
    assert {container["image"].rsplit(":", 1)[1] for container in containers.values()} == {VERSION}


def test_the_samples_install_it() -> None:
    argo = (ROOT / "manifests" / "gitops" / "argocd" / "application.yaml").read_text()
    flux = (ROOT / "manifests" / "gitops" / "flux" / "helmrelease.yaml").read_text()
    overlay = (ROOT / "manifests" / "overlays" / "registry" / "kustomization.yaml").read_text()
    named = re.findall(
        r"(?:targetRevision: v|tag: v|octavo-engine(?:-cuda)?:)([\d.]+)", argo + flux + overlay
    )
    assert named == [VERSION] * 4


@pytest.mark.parametrize(
    "package", ["engine/octavo_engine", "operator/octavo_operator", "router/octavo_router"]
)
def test_no_package_has_a_version_of_its_own(package: str) -> None:
    text = (ROOT / package / "__init__.py").read_text()
    assert "__version__ =" not in text
