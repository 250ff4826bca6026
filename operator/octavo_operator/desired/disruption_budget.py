"""The PodDisruptionBudget: a drained node takes one engine pod at a time."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.meta import Manifest, child, selector


def disruption_budget(llmd: LLMDeployment) -> Manifest:
    """maxUnavailable, since minAvailable 1 with one replica would block node drains for ever."""
    return child(
        llmd,
        "policy/v1",
        "PodDisruptionBudget",
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(llmd.metadata.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
