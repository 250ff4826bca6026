"""Who may do what, by what the chart renders."""

import itertools
from typing import Any

from tests.helm.rendered import Render, environment, named, of_kind

READ = {"get", "list", "watch"}
CHILD = {*READ, "create", "patch"}
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
        "/pods": {"list", "watch", "delete"},
        "/events": {"create", "patch"},
    },
    "octavo-operator-certificate": {"/secrets": {"create", "get", "patch"}},
    "octavo-operator-lease": {"coordination.k8s.io/leases": {"create", "list", "watch", "patch"}},
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
