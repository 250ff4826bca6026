"""Rendering of the chart with the pinned Helm."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.go_programs import program
from tests.helm.rendered import SPREAD, Render

CHART = Path(__file__).parents[2] / "helm" / "octavo"
Objects = list[dict[str, Any]]


@functools.cache
def _helm_template(*settings: str, release: str = "octavo") -> subprocess.CompletedProcess[str]:
    flags = [part for setting in settings for part in ("--set-json", setting)]
    flags += ["--namespace", "octavo-system", "--kube-version", "1.34.0"]
    command: list[str | Path] = [program("helm"), "template", release, CHART, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def render() -> Callable[..., Objects]:
    """`render("router.replicas=3")`: the chart's objects with these values, each `PATH=JSON`."""

    def rendered(*settings: str, release: str = "octavo") -> Objects:
        done = _helm_template(*settings, release=release)
        assert done.returncode == 0, done.stderr
        return [item for item in yaml.safe_load_all(done.stdout) if item]

    return rendered


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """`refusal("router.replicas=-1")`: what Helm says when it refuses these values."""

    def refused(*settings: str) -> str:
        done = _helm_template(*settings)
        assert done.returncode != 0, f"{settings} were taken"
        return done.stderr

    return refused


ALL_ON = (
    'commonLabels={"team": "ml"}',
    f"router.topologySpreadConstraints={SPREAD}",
    'router.tolerations=[{"operator": "Exists"}]',
    'operator.podDefaults={"serviceAccountName": "models"}',
    'image.pullSecrets=[{"name": "pull"}]',
    'router.service.annotations={"a": "b"}',
    'operator.priorityClassName="high"',
    'operator.nodeSelector={"pool": "system"}',
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "by default": (),
    "with everything set": ALL_ON,
    "in two namespaces": ('watchNamespaces=["a", "b"]',),
    "without the metrics API": ("metricsApi.enabled=false",),
    "without the router": ("router.enabled=false",),
    "with API keys": ("router.apiKeys.enabled=true",),
    "with KEDA and an adapter": (
        'scaling.keda.models=[{"name": "llama", "maxReplicas": 8}]',
        "scaling.prometheusAdapter.enabled=true",
    ),
    "open to the outside": (
        "router.ingress.enabled=true",
        "router.autoscaling.enabled=true",
        'router.service.type="LoadBalancer"',
        'router.service.loadBalancerSourceRanges=["10.0.0.0/8"]',
    ),
    "with network policies": ("networkPolicy.enabled=true",),
    "with monitoring": tuple(f"monitoring.{part}.enabled=true" for part in ("monitors", "rules", "board")),
}


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
def objects(request: pytest.FixtureRequest, render: Render) -> Objects:
    return render(*request.param)
