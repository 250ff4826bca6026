"""Spec -> all child manifests."""

from collections.abc import Iterable

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.autoscaler import autoscaler
from octavo_operator.desired.cache_claim import cache_claim
from octavo_operator.desired.deployment import deployment
from octavo_operator.desired.disruption_budget import disruption_budget
from octavo_operator.desired.meta import Defaults, Manifest
from octavo_operator.desired.network_policy import network_policy
from octavo_operator.desired.pod import merged, pod_template
from octavo_operator.desired.service import service
from octavo_operator.desired.service_account import service_account
from octavo_operator.desired.stateful_set import group_scale, members_service, stateful_set
from octavo_operator.names import TEMPLATE_ANNOTATION


def children(llmd: LLMDeployment, defaults: Defaults, groups: Iterable[int] = (0,)) -> list[Manifest]:
    """The children a resource is to have; those that are not in the list are to be gone.

    `groups` are the indices of the groups, where replicas are such.
    """
    wanted = [*workloads(llmd, defaults, groups), service(llmd), disruption_budget(llmd)]
    if merged(defaults.pod, llmd.spec.pod_template).service_account_name is None:
        wanted.append(service_account(llmd))
    if llmd.spec.autoscaling:
        wanted.append(autoscaler(llmd, llmd.spec.autoscaling, defaults))
    if claim := cache_claim(llmd, defaults.image_volumes):
        wanted.append(claim)
    if policy := network_policy(llmd, defaults):
        wanted.append(policy)
    return wanted


def wanted_template(llmd: LLMDeployment, defaults: Defaults) -> str:
    """The hash by which pods of the present spec are told from older ones."""
    group = "group" if llmd.spec.group_size > 1 else ""
    annotations = pod_template(llmd, defaults, group)["metadata"]["annotations"]
    return str(annotations[TEMPLATE_ANNOTATION])


def workloads(llmd: LLMDeployment, defaults: Defaults, groups: Iterable[int]) -> list[Manifest]:
    if llmd.spec.group_size == 1:
        return [deployment(llmd, defaults)]
    sets = [stateful_set(llmd, defaults, index) for index in groups]
    return [group_scale(llmd), members_service(llmd), *sets]
