"""The HorizontalPodAutoscaler over the child Deployment, or over the number of groups."""

from octavo_operator.api import Autoscaling, LLMDeployment, ScalingDefaults
from octavo_operator.desired.meta import Defaults, Manifest, child
from octavo_operator.names import API_VERSION, KV_CACHE_USAGE, REQUESTS_IN_FLIGHT, REQUESTS_WAITING


def autoscaler(llmd: LLMDeployment, autoscaling: Autoscaling, defaults: Defaults) -> Manifest:
    """It targets a child and not the resource's own /scale, which writes a field that Git may own.

    An HPA takes no part in going to zero and back: it leaves a Deployment without replicas alone.
    """
    target = ("apps/v1", "Deployment") if llmd.spec.group_size == 1 else (API_VERSION, "GroupScale")
    behavior = autoscaling.behavior or defaults.scaling.behavior
    return child(
        llmd,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec={
            "scaleTargetRef": {"apiVersion": target[0], "kind": target[1], "name": llmd.metadata.name},
            "minReplicas": max(1, autoscaling.min_replicas),
            "maxReplicas": autoscaling.max_replicas,
            "metrics": metrics(autoscaling) or metrics(defaults.scaling),
            **({"behavior": behavior} if behavior else {}),
        },
    )


def metrics(targets: Autoscaling | ScalingDefaults) -> list[Manifest]:
    """The HPA follows the one that asks for most pods; a default of 0 is off."""
    found = []
    if targets.concurrency:
        found.append(pods_metric(REQUESTS_IN_FLIGHT, str(targets.concurrency)))
    if targets.queue_depth:
        found.append(pods_metric(REQUESTS_WAITING, str(targets.queue_depth)))
    if targets.kv_cache_usage:
        found.append(pods_metric(KV_CACHE_USAGE, f"{round(targets.kv_cache_usage * 1000)}m"))
    return found


def pods_metric(name: str, average: str) -> Manifest:
    target = {"type": "AverageValue", "averageValue": average}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}
