"""A replica that is a group of pods: what its pods have beyond those of a single one, and who answers."""

from octavo_operator.api import LLMDeployment, Parallelism, Passthrough, Spec
from octavo_operator.desired.meta import Manifest, selector
from octavo_operator.names import (
    GROUP_LABEL,
    GROUP_PORT,
    GROUP_VARIABLE,
    MEMBER_LABEL,
    MEMBER_VARIABLE,
    NODE_IP_VARIABLE,
)

GROUP_ENV: tuple[Manifest, ...] = (
    {"name": GROUP_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{GROUP_LABEL}']"}}},
    {"name": MEMBER_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{MEMBER_LABEL}']"}}},
    {"name": NODE_IP_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    {"name": "NCCL_DEBUG", "value": "WARN"},  # so that a refused connection is in the log
    {"name": "NCCL_SOCKET_IFNAME", "value": "^lo,docker"},
)
GROUP_CONTAINER_PORT: Manifest = {"name": "group", "containerPort": GROUP_PORT, "protocol": "TCP"}


def served_by(llmd: LLMDeployment) -> dict[str, str]:
    """Labels of the pods that answer requests: of a group the leader alone."""
    leader = {MEMBER_LABEL: "0"} if llmd.spec.group_size > 1 else {}
    return {**selector(llmd.metadata.name), **leader}


def affinity(spec: Spec, group: str) -> Passthrough | None:
    """A group's pods are drawn into one zone, unless the resource says itself what they are to be near."""
    given = spec.scheduling.affinity or {}
    if not group or "podAffinity" in given:
        return given or None
    parallel = spec.parallelism or Parallelism()
    term = {"topologyKey": parallel.topology_key, "labelSelector": {"matchLabels": {GROUP_LABEL: group}}}
    near = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    return {**given, "podAffinity": near}


def network(spec: Spec) -> Manifest:
    if spec.parallelism is None or not spec.parallelism.host_network:
        return {}
    return {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
