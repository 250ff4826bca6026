"""Does the cluster have the image volumes that the operator was told it has? Pure."""

from collections.abc import Iterable

from octavo_operator.api import LLMDeployment
from octavo_operator.causes import Cause
from octavo_operator.desired.source import is_image
from octavo_operator.observed import Child


def lost_volume(
    llmd: LLMDeployment, image_volumes: bool, template: str, children: Iterable[Child]
) -> list[Cause]:
    """An API server without the feature takes a Deployment or StatefulSet and leaves the volume out, without
    a word. Groups of another `template` are older, and may have had no volume."""
    if not is_image(llmd.spec.model, image_volumes):
        return []
    workloads = [c for c in children if c.kind == "Deployment" or _is_group_of(template, c)]
    if all(any(v["name"] == "models" for v in _volumes(workload)) for workload in workloads):
        return []
    text = (
        "this cluster has no image volumes: set engine.imageVolumes of the chart to false, "
        "so that the model is downloaded, or enable the feature ImageVolume of API server and kubelets"
    )
    return [Cause("ImageVolumesMissing", text, final=True)]


def _is_group_of(template: str, child: Child) -> bool:
    return child.kind == "StatefulSet" and child.template == template


def _volumes(workload: Child) -> list[dict[str, object]]:
    found: list[dict[str, object]] = workload.compared()["spec"]["template"]["spec"].get("volumes", [])
    return found
