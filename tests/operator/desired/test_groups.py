"""A replica that is a group of pods: its objects."""

from typing import Any

import msgspec
import pytest

from octavo_operator.desired.children import children, wanted_template
from octavo_operator.desired.meta import Defaults, Manifest

PAIR = {"parallelism": {"tensor": 2, "pods": 2}}
BIG = {"parallelism": {"tensor": 8, "pipeline": 2}, "resources": {"gpu": 8}}


def by_name(llmd: Any, defaults: Defaults, groups: tuple[int, ...] = (0,)) -> dict[str, Manifest]:
    return {f"{m['kind']} {m['metadata']['name']}": m for m in children(llmd, defaults, groups)}


def template(llmd: Any, defaults: Defaults) -> Manifest:
    found: Manifest = by_name(llmd, defaults)["StatefulSet smollm2-0"]["spec"]["template"]
    return found


@pytest.mark.parametrize(
    ("spec", "pods"),
    [
        pytest.param({}, 1, id="one pod"),
        pytest.param({"resources": {"gpu": 8}}, 1, id="all GPUs of one pod"),
        pytest.param({"parallelism": {"tensor": 4}, "resources": {"gpu": 4}}, 1, id="as many ranks as GPUs"),
        pytest.param(BIG, 2, id="twice as many ranks as GPUs"),
        pytest.param(PAIR, 2, id="pods without GPUs"),
        pytest.param({"parallelism": {"tensor": 2, "pods": 1}}, 1, id="several ranks in a pod without GPUs"),
    ],
)
def test_pods_of_a_replica(make: Any, spec: dict[str, Any], pods: int) -> None:
    assert make(**spec).spec.group_size == pods


def test_each_group_is_a_stateful_set_and_all_share_the_rest(make: Any, defaults: Defaults) -> None:
    assert set(by_name(make(**PAIR), defaults, (0, 1))) == {
        "GroupScale smollm2",
        "Service smollm2-members",
        "StatefulSet smollm2-0",
        "StatefulSet smollm2-1",
        "Service smollm2",
        "PodDisruptionBudget smollm2",
        "ServiceAccount smollm2",
    }


def test_requests_go_to_leaders_alone(make: Any, defaults: Defaults) -> None:
    found = by_name(make(**PAIR), defaults)
    leaders = {"octavo.dev/deployment": "smollm2", "apps.kubernetes.io/pod-index": "0"}
    assert found["Service smollm2"]["spec"]["selector"] == leaders
    chosen = found["GroupScale smollm2"]["spec"]["selector"]
    assert dict(part.split("=") for part in chosen.split(",")) == leaders


def test_pods_of_a_group_meet_before_they_are_ready(make: Any, defaults: Defaults) -> None:
    found = by_name(make(**PAIR), defaults)
    service, group = found["Service smollm2-members"]["spec"], found["StatefulSet smollm2-0"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert group["serviceName"] == "smollm2-members"
    assert (group["replicas"], group["podManagementPolicy"]) == (2, "Parallel")
    assert group["updateStrategy"] == {"type": "OnDelete"}  # a group is never of two specs


def test_one_command_line_for_all_pods_of_all_groups(make: Any, defaults: Defaults) -> None:
    [container] = template(make(**BIG), defaults)["spec"]["containers"]
    assert {
        "--tensor-parallel-size=8",
        "--pipeline-parallel-size=2",
        "--distributed-executor=ray",
        "--node-rank=$(OCTAVO_MEMBER)",
        "--leader=$(OCTAVO_GROUP)-0.smollm2-members",
    } <= set(container["args"])
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    names = [variable["name"] for variable in container["env"]]
    assert names.index("OCTAVO_MEMBER") >= 0 and "OCTAVO_NODE_IP" in names


def test_the_users_environment_wins(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR, engine={"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth1"}]})
    [container] = template(llmd, defaults)["spec"]["containers"]
    assert [v["value"] for v in container["env"] if v["name"] == "NCCL_SOCKET_IFNAME"] == ["eth1"]


def test_groups_share_a_template_hash_but_not_a_label(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR)
    found = by_name(llmd, defaults, (0, 3))
    templates = [found[f"StatefulSet smollm2-{i}"]["spec"]["template"]["metadata"] for i in (0, 3)]
    hashes = {m["annotations"]["octavo.dev/template-hash"] for m in templates}
    assert hashes == {wanted_template(llmd, defaults)}
    assert [m["labels"]["octavo.dev/group"] for m in templates] == ["smollm2-0", "smollm2-3"]


def test_pods_of_a_group_are_drawn_together(make: Any, defaults: Defaults) -> None:
    spec = {"parallelism": {**PAIR["parallelism"], "topologyKey": "rack"}}
    near = template(make(**spec), defaults)["spec"]["affinity"]["podAffinity"]
    [term] = near["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"] == {
        "topologyKey": "rack",
        "labelSelector": {"matchLabels": {"octavo.dev/group": "smollm2-0"}},
    }


def test_what_the_resource_says_of_pods_nearby_counts(make: Any, defaults: Defaults) -> None:
    given = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    llmd = make(**PAIR, scheduling={"affinity": given})
    assert template(llmd, defaults)["spec"]["affinity"] == given


def test_host_network_and_rdma_are_passed_on(make: Any, defaults: Defaults) -> None:
    resources = {"gpu": 8, "extended": {"rdma/hca": 8}}
    llmd = make(parallelism={"tensor": 16, "hostNetwork": True}, resources=resources)
    pod = template(llmd, defaults)["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    wanted = pod["containers"][0]["resources"]
    assert wanted["limits"] == wanted["requests"] == {"nvidia.com/gpu": "8", "rdma/hca": "8"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]


def test_the_hpa_scales_the_number_of_groups(make: Any, defaults: Defaults) -> None:
    found = by_name(make(**PAIR, autoscaling={"maxReplicas": 3}), defaults)
    target = found["HorizontalPodAutoscaler smollm2"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "octavo.dev/v1alpha1", "kind": "GroupScale", "name": "smollm2"}
    assert "replicas" not in found["GroupScale smollm2"]["spec"]


def test_a_network_policy_lets_a_groups_pods_speak_to_each_other(make: Any, defaults: Defaults) -> None:
    closed = msgspec.structs.replace(defaults, engine_clients=[{"podSelector": {}}])
    spec = by_name(make(**PAIR), closed)["NetworkPolicy smollm2"]["spec"]
    pods = {"podSelector": {"matchLabels": {"octavo.dev/deployment": "smollm2"}}}
    assert {"from": [pods]} in spec["ingress"]
    assert {"to": [pods]} in spec["egress"]
