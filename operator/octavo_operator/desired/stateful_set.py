"""Replicas that are groups: a StatefulSet a group, the Service of their names, and the number of groups."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.deployment import replicas, scaled_by
from octavo_operator.desired.group import served_by
from octavo_operator.desired.meta import Defaults, Manifest, child, selector
from octavo_operator.desired.pod import pod_template
from octavo_operator.names import (
    API_VERSION,
    GROUP_LABEL,
    GROUP_PORT,
    TEMPLATE_ANNOTATION,
    group_name,
    members_name,
)


def stateful_set(llmd: LLMDeployment, defaults: Defaults, index: int) -> Manifest:
    """One group. Its pods start at once and are never updated one by one: a changed group is made anew."""
    name = group_name(llmd.metadata.name, index)
    template = pod_template(llmd, defaults, group=name)
    return child(
        llmd,
        "apps/v1",
        "StatefulSet",
        name=name,
        annotations={TEMPLATE_ANNOTATION: template["metadata"]["annotations"][TEMPLATE_ANNOTATION]},
        spec={
            "replicas": llmd.spec.group_size,
            "serviceName": members_name(llmd.metadata.name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {**selector(llmd.metadata.name), GROUP_LABEL: name}},
            "template": template,
        },
    )


def members_service(llmd: LLMDeployment) -> Manifest:
    """DNS names for the pods of all groups, ready or not: they meet before they are ready."""
    return child(
        llmd,
        "v1",
        "Service",
        name=members_name(llmd.metadata.name),
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(llmd.metadata.name),
            "ports": [{"name": "group", "port": GROUP_PORT, "targetPort": GROUP_PORT, "protocol": "TCP"}],
        },
    )


def group_scale(llmd: LLMDeployment) -> Manifest:
    """The number of groups, as something that an HPA can scale: it counts leaders, by the selector."""
    chosen = ",".join(f"{name}={value}" for name, value in served_by(llmd).items())
    spec = {**replicas(llmd.spec), "selector": chosen}
    return child(llmd, API_VERSION, "GroupScale", annotations=scaled_by(llmd.spec), spec=spec)
