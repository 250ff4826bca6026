"""Spec -> all child manifests."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.autoscaler import autoscaler
from octavo_operator.desired.cache_claim import cache_claim
from octavo_operator.desired.deployment import deployment
from octavo_operator.desired.disruption_budget import disruption_budget
from octavo_operator.desired.meta import Defaults, Manifest
from octavo_operator.desired.network_policy import network_policy
from octavo_operator.desired.pod import merged
from octavo_operator.desired.service import service
from octavo_operator.desired.service_account import service_account


def children(llmd: LLMDeployment, defaults: Defaults) -> list[Manifest]:
    """The children a resource is to have; kinds that are not in the list are to be gone."""
    wanted = [deployment(llmd, defaults), service(llmd), disruption_budget(llmd)]
    if merged(defaults.pod, llmd.spec.pod_template).service_account_name is None:
        wanted.append(service_account(llmd))
    if llmd.spec.autoscaling:
        wanted.append(autoscaler(llmd, llmd.spec.autoscaling, defaults))
    if claim := cache_claim(llmd, defaults.image_volumes):
        wanted.append(claim)
    if policy := network_policy(llmd, defaults):
        wanted.append(policy)
    return wanted
