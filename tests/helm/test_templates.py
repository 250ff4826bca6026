"""What the chart renders."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Render = Callable[..., list[dict[str, Any]]]
SPREAD = '[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]'
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
READ = {"get", "list", "watch"}
CHILD = {"get", "watch", "create", "patch"}
ALLOWED: dict[str, dict[str, set[str]]] = {
    "octavo-operator": {
        "octavo.dev/llmdeployments": READ,
        "octavo.dev/llmdeployments/status": {"patch"},
        "octavo.dev/llmdeployments/finalizers": {"update"},
        "apps/deployments": {*CHILD, "delete"},
        "apps/statefulsets": {*CHILD, "delete"},
        "octavo.dev/groupscales": {*CHILD, "delete"},
        "/services": {*CHILD, "delete"},
        "/serviceaccounts": {*CHILD, "delete"},
        "/persistentvolumeclaims": {*CHILD, "delete"},
        "autoscaling/horizontalpodautoscalers": {*CHILD, "delete"},
        "policy/poddisruptionbudgets": CHILD,
        "networking.k8s.io/networkpolicies": {*CHILD, "delete"},
        "/pods": {"watch", "delete"},
        "/events": {"create", "patch"},
    },
    "octavo-operator-certificate": {"/secrets": {"create", "get", "patch"}},
    "octavo-operator-lease": {"coordination.k8s.io/leases": {"create", "watch", "patch"}},
    "octavo-operator-metrics-api": {"apiregistration.k8s.io/apiservices": {"get", "patch"}},
    "octavo-operator-metrics-reader": {
        "custom.metrics.k8s.io/pods/octavo_kv_cache_usage_ratio": {"get"},
        "custom.metrics.k8s.io/pods/octavo_num_requests_waiting": {"get"},
        "custom.metrics.k8s.io/pods/octavo_num_requests_in_flight": {"get"},
    },
    "octavo-router": {
        "octavo.dev/llmdeployments": {"list", "watch"},
        "octavo.dev/llmdeployments/status": {"patch"},
        "discovery.k8s.io/endpointslices": {"list", "watch"},
    },
    "octavo-llmdeployments-view": {
        f"octavo.dev/llmdeployments{part}": READ for part in ("", "/status", "/scale")
    },
    "octavo-llmdeployments-edit": {
        f"octavo.dev/llmdeployments{part}": {"create", "update", "patch", "delete", "deletecollection"}
        for part in ("", "/scale")
    },
}


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in of_kind(objects, "Deployment"):
        yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def environment(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    (container,) = named(objects, "Deployment", f"octavo-{component}")["spec"]["template"]["spec"][
        "containers"
    ]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
def objects(request: pytest.FixtureRequest, render: Render) -> list[dict[str, Any]]:
    return render(*request.param)


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


def test_every_rule_gives_just_what_is_known_to_be_needed(objects: list[dict[str, Any]]) -> None:
    for role in of_kind(objects, "Role", "ClusterRole"):
        granted: dict[str, set[str]] = {}
        for rule in role["rules"]:
            for group, resource in itertools.product(rule["apiGroups"], rule["resources"]):
                granted.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
        secrets = granted.pop("/secrets", None) if role["metadata"]["name"] == "octavo-router" else None
        assert secrets in (None, {"list", "watch"})
        assert granted == ALLOWED[role["metadata"]["name"]], role["metadata"]["name"]


def _lists_secrets(role: dict[str, Any]) -> bool:
    return any("secrets" in rule["resources"] and "list" in rule["verbs"] for rule in role["rules"])


def test_secrets_are_the_routers_only_with_api_keys_and_only_where_it_watches(render: Render) -> None:
    def readers(*values: str) -> set[tuple[str, str]]:
        roles = of_kind(render(*values), "Role", "ClusterRole")
        reading = [role for role in roles if _lists_secrets(role)]
        return {(role["metadata"].get("namespace", ""), role["metadata"]["name"]) for role in reading}

    assert readers() == set()
    assert readers("router.apiKeys.enabled=true") == {("", "octavo-router")}
    in_two = readers("router.apiKeys.enabled=true", 'watchNamespaces=["a", "b"]')
    assert in_two == {("a", "octavo-router"), ("b", "octavo-router")}


def test_with_api_keys_replicas_of_the_router_find_each_other(render: Render) -> None:
    assert "OCTAVO_PEERS" not in environment(render(), "router")
    objects = render("router.apiKeys.enabled=true")
    name, _, port = environment(objects, "router")["OCTAVO_PEERS"].partition(":")
    (service,) = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == name]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == int(port)


def test_every_binding_names_a_role_and_an_account_that_exist(objects: list[dict[str, Any]]) -> None:
    roles = {(role["kind"], role["metadata"]["name"]) for role in of_kind(objects, "Role", "ClusterRole")}
    roles |= {("ClusterRole", "system:auth-delegator"), ("Role", "extension-apiserver-authentication-reader")}
    accounts = {
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in of_kind(objects, "ServiceAccount")
    }
    accounts |= {("kube-system", "horizontal-pod-autoscaler")}
    bindings = of_kind(objects, "RoleBinding", "ClusterRoleBinding")
    assert bindings
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        assert all((subject["namespace"], subject["name"]) in accounts for subject in binding["subjects"])


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


def test_all_namespaces_are_watched_by_cluster_roles(render: Render) -> None:
    roles = {item["metadata"]["name"] for item in of_kind(render(), "ClusterRole")}
    assert {"octavo-operator", "octavo-router"} <= roles
    namespaces = {item["metadata"]["namespace"] for item in of_kind(render(), "Role")}
    assert namespaces == {"octavo-system"}


def test_secrets_can_be_read_by_name_only(render: Render) -> None:
    (role,) = [item for item in of_kind(render(), "Role") if "secrets" in str(item["rules"])]
    for rule in role["rules"]:
        assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["octavo-metrics-tls"]


def test_named_namespaces_are_watched_by_a_role_in_each(render: Render) -> None:
    objects = render('watchNamespaces=["a", "b"]', "metricsApi.enabled=false")
    roles = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in of_kind(objects, "Role")}
    watched = {(space, name) for space in "ab" for name in ("octavo-operator", "octavo-router")}
    assert roles == {*watched, ("octavo-system", "octavo-operator-lease")}
    cluster_wide = {item["metadata"]["name"] for item in of_kind(objects, "ClusterRoleBinding")}
    assert cluster_wide == set()
    assert environment(objects, "operator")["OCTAVO_WATCH_NAMESPACES"] == "a,b"
    assert environment(objects, "router")["OCTAVO_WATCH_NAMESPACES"] == "a,b"


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


def test_roles_and_accounts_of_ones_own_are_taken(render: Render) -> None:
    kinds = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
    bare = render("rbac.create=false")
    assert not of_kind(bare, *kinds)
    assert len(bare) == len(render()) - len(of_kind(render(), *kinds))
    objects = render('operator.serviceAccount={"create": false, "name": "mine"}')
    assert "octavo-operator" not in {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    pod = named(objects, "Deployment", "octavo-operator")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "mine"
    bound = [each for each in of_kind(objects, *kinds[2:]) if each["metadata"]["name"] == "octavo-operator"]
    assert [subject["name"] for each in bound for subject in each["subjects"]] == ["mine"]


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
