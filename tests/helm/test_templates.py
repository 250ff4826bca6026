"""What the chart renders."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from tests.helm.rendered import SPREAD, Render, environment, named, of_kind


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in of_kind(objects, "Deployment"):
        yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def test_every_pod_meets_the_restricted_pod_security_standard(objects: list[dict[str, Any]]) -> None:
    for name, spec in pod_specs(objects):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys(), name
        assert all({"configMap", "emptyDir"} & volume.keys() for volume in spec.get("volumes", [])), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name


def test_every_container_has_requests_a_memory_limit_and_probes(objects: list[dict[str, Any]]) -> None:
    for name, spec in pod_specs(objects):
        for container in spec["containers"]:
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name


def test_every_image_is_named_by_the_charts_version(objects: list[dict[str, Any]]) -> None:
    images = [container["image"] for _, spec in pod_specs(objects) for container in spec["containers"]]
    images += [value for name, value in environment(objects, "operator").items() if name.endswith("_IMAGE")]
    assert len(images) >= 3
    assert all(image.endswith(":0.1.0") for image in images), images


def test_with_api_keys_replicas_of_the_router_find_each_other(render: Render) -> None:
    assert "OCTAVO_PEERS" not in environment(render(), "router")
    objects = render("router.apiKeys.enabled=true")
    name, _, port = environment(objects, "router")["OCTAVO_PEERS"].partition(":")
    (service,) = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == name]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == int(port)


def test_every_selector_selects_the_pods_it_is_for(objects: list[dict[str, Any]]) -> None:
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in of_kind(objects, "Deployment")
    }
    for item in of_kind(objects, "Deployment", "PodDisruptionBudget", "Service"):
        selector = item["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        chosen = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert chosen == [item["metadata"]["name"].removesuffix("-admin")], item["kind"]


def test_every_target_port_is_a_port_of_the_pods(objects: list[dict[str, Any]]) -> None:
    for service in of_kind(objects, "Service"):
        deployment = named(objects, "Deployment", service["metadata"]["name"].removesuffix("-admin"))
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_without_the_metrics_api_nothing_of_it_is_there(render: Render) -> None:
    objects = render("metricsApi.enabled=false")
    assert not of_kind(objects, "APIService")
    words = ("metrics", "auth", "certificate")
    assert not [item for item in objects if any(word in item["metadata"]["name"] for word in words)]
    assert environment(objects, "operator")["OCTAVO_METRICS_API"] == "false"


def test_the_metrics_api_leaves_the_authority_to_the_operator(render: Render) -> None:
    services = of_kind(render(), "APIService")
    assert {item["spec"]["version"] for item in services} == {"v1beta1", "v1beta2"}
    assert not [item for item in services if {"caBundle", "insecureSkipTLSVerify"} & item["spec"].keys()]
    preferred = max(services, key=lambda item: item["spec"]["versionPriority"])
    assert preferred["spec"]["version"] == "v1beta2"


def test_without_the_router_nothing_of_it_is_there(render: Render) -> None:
    assert not [item for item in render("router.enabled=false") if "router" in item["metadata"]["name"]]


def test_the_custom_resource_is_kept_unless_told_otherwise(render: Render) -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in kept} == {"keep"}
    released = of_kind(render("crds.keep=false"), "CustomResourceDefinition")
    assert len(kept) == len(released) == 2
    assert not any("helm.sh/resource-policy" in each["metadata"]["annotations"] for each in released)
    assert not of_kind(render("crds.install=false"), "CustomResourceDefinition")


def test_a_stopping_router_has_time_for_endpoints_and_streams(render: Render) -> None:
    objects = render("router.drain.endpointSeconds=7", "router.drain.streamSeconds=300")
    spec = named(objects, "Deployment", "octavo-router")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 7 + 300 + 10
    assert environment(objects, "router")["OCTAVO_LAME_DUCK"] == "7"
    assert environment(objects, "router")["OCTAVO_DRAIN_TIMEOUT"] == "300"


def test_pod_defaults_reach_the_operator_and_restart_it_when_they_change(render: Render) -> None:
    def settings_hash(objects: list[dict[str, Any]]) -> str:
        template = named(objects, "Deployment", "octavo-operator")["spec"]["template"]
        return str(template["metadata"]["annotations"]["octavo.dev/settings-hash"])

    changed = render('operator.podDefaults={"serviceAccountName": "models"}')
    data = named(changed, "ConfigMap", "octavo-operator")["data"]
    assert data["pod-defaults.yaml"] == "serviceAccountName: models\n"
    assert settings_hash(changed) != settings_hash(render())
    assert settings_hash(render("operator.scalingDefaults.concurrency=32")) != settings_hash(render())


DEFAULTS = {"concurrency": 64, "kvCacheUsage": 0.8, "queueDepth": None}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), DEFAULTS),
        (("operator.scalingDefaults.concurrency=null",), DEFAULTS | {"concurrency": None}),
        (("operator.scalingDefaults.kvCacheUsage=0",), DEFAULTS | {"kvCacheUsage": None}),
        (
            ("operator.scalingDefaults.queueDepth=5", "operator.scalingDefaults.concurrency=0"),
            {"concurrency": None, "kvCacheUsage": 0.8, "queueDepth": 5},
        ),
    ],
)
def test_signals_are_switched_off_by_null_or_0(
    settings: tuple[str, ...], expected: dict[str, Any], render: Render
) -> None:
    data = named(render(*settings), "ConfigMap", "octavo-operator")["data"]
    found = yaml.safe_load(data["scaling-defaults.yaml"])
    assert {name: found[name] for name in expected} == expected
    assert found["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0


@pytest.mark.parametrize("off", ["0", "null"])
def test_one_signal_is_left(off: str, refusal: Callable[..., str]) -> None:
    told = refusal(*(f"operator.scalingDefaults.{name}={off}" for name in ("concurrency", "kvCacheUsage")))
    assert "operator.scalingDefaults switches every signal off" in told
    assert "set concurrency, kvCacheUsage or queueDepth above 0" in told


@pytest.mark.parametrize(
    ("release", "settings"),
    [
        ("octavo", (f'fullnameOverride="{"n" * 50}"',)),
        ("r" * 53, ()),
        ("r" * 53, (f'nameOverride="{"n" * 50}"',)),
    ],
)
def test_names_of_services_are_never_too_long(
    release: str, settings: tuple[str, ...], render: Render
) -> None:
    services = of_kind(render(*settings, release=release), "Service")
    assert {len(service["metadata"]["name"]) for service in services} == {57, 59, 63}


def test_a_service_account_may_have_a_longer_name(render: Render) -> None:
    name = ".".join(["team", "n" * 60, "x" * 60])
    settings = ("operator.serviceAccount.create=false", f'operator.serviceAccount.name="{name}"')
    objects = render(*settings, f'operator.podDefaults.serviceAccountName="{name}"')
    pod = named(objects, "Deployment", "octavo-operator")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == name


IMAGES = {
    "by default": ((), "octavo-router:0.1.0"),
    "of a registry": (('image.registry="r.example:5000/team"',), "r.example:5000/team/octavo-router:0.1.0"),
    "of a registry with a slash": (('image.registry="r.example/"',), "r.example/octavo-router:0.1.0"),
    "with a tag for all": (('image.tag="1.2"',), "octavo-router:1.2"),
    "with a tag of its own": (('image.tag="1.2"', 'router.image.tag="1.3"'), "octavo-router:1.3"),
    "by digest": ((f'router.image.digest="sha256:{"0" * 64}"',), f"octavo-router:0.1.0@sha256:{'0' * 64}"),
}


@pytest.mark.parametrize(("settings", "image"), IMAGES.values(), ids=list(IMAGES))
def test_the_routers_image_is_named(settings: tuple[str, ...], image: str, render: Render) -> None:
    deployment = named(render(*settings), "Deployment", "octavo-router")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_engine_images_follow_the_registry_unless_named(render: Render) -> None:
    built = environment(render('image.registry="r.example"'), "operator")
    assert built["OCTAVO_ENGINE_IMAGE"] == "r.example/octavo-engine:0.1.0"
    assert built["OCTAVO_ENGINE_CUDA_IMAGE"] == "r.example/octavo-engine-cuda:0.1.0"
    named_outright = environment(render('engine.image="other/engine:7"'), "operator")
    assert named_outright["OCTAVO_ENGINE_IMAGE"] == "other/engine:7"


PLACEMENT: dict[str, tuple[str, Any]] = {
    "nodeSelector": ("nodeSelector", {"pool": "system"}),
    "tolerations": ("tolerations", [{"operator": "Exists"}]),
    "affinity": ("affinity", {"nodeAffinity": {}}),
    "priorityClassName": ("priorityClassName", "high"),
}


@pytest.mark.parametrize("component", ["operator", "router"])
@pytest.mark.parametrize(("value", "wanted"), PLACEMENT.values(), ids=list(PLACEMENT))
def test_placement_reaches_the_pods(component: str, value: str, wanted: Any, render: Render) -> None:
    objects = render(f"{component}.{value}={json.dumps(wanted)}")
    assert named(objects, "Deployment", f"octavo-{component}")["spec"]["template"]["spec"][value] == wanted


def test_a_spread_without_a_selector_spreads_its_own_pods(render: Render) -> None:
    deployment = named(render(f"router.topologySpreadConstraints={SPREAD}"), "Deployment", "octavo-router")
    (constraint,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == deployment["spec"]["selector"]


def test_extra_environment_comes_last_and_so_wins(render: Render) -> None:
    objects = render('router.extraEnv=[{"name": "OCTAVO_LOG_LEVEL", "value": "debug"}]')
    assert environment(objects, "router")["OCTAVO_LOG_LEVEL"] == "debug"


def test_two_releases_share_no_name(render: Render) -> None:
    first, second = (
        render(),
        render('fullnameOverride="other"', "crds.install=false", "metricsApi.enabled=false"),
    )
    names = [{(item["kind"], item["metadata"]["name"]) for item in objects} for objects in (first, second)]
    assert not names[0] & names[1]
