"""The Deployment of engine pods."""

from octavo_operator.api import LLMDeployment, Spec
from octavo_operator.desired.meta import Defaults, Manifest, child, selector
from octavo_operator.desired.pod import pod_template
from octavo_operator.desired.source import is_downloaded
from octavo_operator.names import SCALED_BY_ANNOTATION

PROGRESS_MARGIN = 300  # seconds beyond loading for scheduling and pulling the image
DOWNLOAD_MARGIN = 24 * 3600  # and for a large model from afar, whose progress the status shows


def deployment(llmd: LLMDeployment, defaults: Defaults) -> Manifest:
    spec = llmd.spec
    margin = PROGRESS_MARGIN + (DOWNLOAD_MARGIN if is_downloaded(spec.model, defaults.image_volumes) else 0)
    return child(
        llmd,
        "apps/v1",
        "Deployment",
        annotations=scaled_by(spec),
        spec={
            **replicas(spec),
            "selector": {"matchLabels": selector(llmd.metadata.name)},
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": spec.startup_seconds + margin,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": rolling_update(spec),
            },
            "template": pod_template(llmd, defaults),
        },
    )


def rolling_update(spec: Spec) -> Manifest:
    """As the spec has it; a new pod cannot start beside one that alone may hold the cache."""
    cache = spec.model.cache
    if cache is not None and cache.access_mode == "ReadWriteOncePod":
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": spec.rollout.max_surge, "maxUnavailable": spec.rollout.max_unavailable}


def replicas(spec: Spec) -> Manifest:
    """1 unless given; nothing where the HPA has the field."""
    return {} if spec.autoscaling else {"replicas": 1 if spec.replicas is None else spec.replicas}


def scaled_by(spec: Spec) -> dict[str, str]:
    return {SCALED_BY_ANNOTATION: "hpa" if spec.autoscaling else "spec"}
