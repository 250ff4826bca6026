"""Objects of the chart whose kinds others define, against their very definitions on a real API server.

An API server prunes fields that a definition does not know; asked to validate strictly, it refuses them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import module_folder
from e2e.kubectl import ESTABLISHED, Kubectl

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

Objects = list[dict[str, Any]]
# Go module, folder of its definitions, group, and those of its kinds that the chart has, in the plural.
DEFINITIONS = (
    ("github.com/kedacore/keda/v2@v2.17.2", "config/crd/bases", "keda.sh", ("scaledobjects",)),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.94.1",
        "example/prometheus-operator-crd",
        "monitoring.coreos.com",
        ("podmonitors", "servicemonitors", "prometheusrules"),
    ),
    ("sigs.k8s.io/gateway-api@v1.3.0", "config/crd/standard", "gateway.networking.k8s.io", ("httproutes",)),
)
MONITORS = "monitoring.monitors.enabled=true"
RENDERED: dict[str, tuple[str, tuple[str, ...], int]] = {
    "KEDA's": (
        "ScaledObject",
        (
            'scaling.keda.models=[{"name": "llama", "namespace": "ml", "minReplicas": 2, "maxReplicas": 8,'
            ' "concurrency": 16}, {"name": "small", "maxReplicas": 2}]',
        ),
        2,
    ),
    "monitors of pods": ("PodMonitor", (MONITORS, 'monitoring.monitors.labels={"release": "p"}'), 3),
    "monitors of two namespaces": ("PodMonitor", (MONITORS, 'watchNamespaces=["a", "b"]'), 3),
    "monitors of Services": ("ServiceMonitor", (MONITORS, 'monitoring.monitors.kind="ServiceMonitor"'), 3),
    "a route": (
        "HTTPRoute",
        (
            "router.httpRoute.enabled=true",
            'router.httpRoute.parentRefs=[{"name": "public", "namespace": "gateways"}]',
            'router.httpRoute.hostnames=["llm.example.com"]',
        ),
        1,
    ),
    "rules": ("PrometheusRule", ("monitoring.rules.enabled=true",), 1),
}


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """An API server that has the definitions, and the namespaces of the objects."""
    with ControlPlane() as plane:
        found = Kubectl(plane.kubeconfig)
        for module, folder, group, plurals in DEFINITIONS:
            for plural in plurals:
                file = module_folder(module) / folder / f"{group}_{plural}.yaml"
                found.apply(yaml.safe_load(file.read_text()))
                found("wait", ESTABLISHED, f"crd/{plural}.{group}", "--timeout=30s")
        for name in ("ml", "octavo-system"):
            found("create", "namespace", name)
        yield found


def apply(kubectl: Kubectl, objects: Objects, *more: str) -> str:
    words = ("apply", "--server-side", "--validate=strict", *more, "-f", "-")
    return kubectl(*words, stdin=yaml.safe_dump_all(objects))


@pytest.mark.parametrize(("kind", "settings", "count"), RENDERED.values(), ids=list(RENDERED))
def test_the_real_definitions_know_every_field(
    kind: str, settings: tuple[str, ...], count: int, render: Callable[..., Objects], kubectl: Kubectl
) -> None:
    objects = [item for item in render(*settings) if item["kind"] == kind]
    assert apply(kubectl, objects, "--force-conflicts").count("serverside-applied") == count == len(objects)


def test_a_field_that_the_definition_does_not_know_is_refused(
    render: Callable[..., Objects], kubectl: Kubectl
) -> None:
    monitor = next(item for item in render(MONITORS) if item["kind"] == "PodMonitor")
    monitor["spec"]["podMetricsEndpoints"][0]["relabeling"] = []
    with pytest.raises(ClusterError, match="relabeling"):
        apply(kubectl, [monitor])
