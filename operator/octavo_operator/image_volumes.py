"""Does the cluster have the image volumes that the operator was told it has? Pure."""

from collections.abc import Iterable

from octavo_operator.api import LLMDeployment
from octavo_operator.causes import Cause
from octavo_operator.desired.source import is_image
from octavo_operator.observed.child import Child


def lost_volume(
    llmd: LLMDeployment, image_volumes: bool, template: str, children: Iterable[Child]
) -> list[Cause]:
    """An API server without the feature takes a Deployment or StatefulSet and leaves the volume out, without
    a word. Groups of another `template`, and a Deployment that groups take the place of, are older and may
    have had no volume."""
    if not is_image(llmd.spec.model, image_volumes):
        return []
    own = [child for child in children if child.is_of(llmd.metadata.uid)]
    if llmd.spec.group_size > 1:
        workloads = [c for c in own if c.kind == "StatefulSet" and c.template == template]
    else:
        workloads = [c for c in own if c.kind == "Deployment"]
    if all(any(v["name"] == "models" for v in _volumes(workload)) for workload in workloads):
        return []
    text = (
        "this cluster has no image volumes: set engine.imageVolumes of the chart to false, "
        "so that the model is downloaded, or enable the feature ImageVolume of API server and kubelets"
    )
    return [Cause("ImageVolumesMissing", text, final=True)]


def _volumes(workload: Child) -> list[dict[str, object]]:
    found: list[dict[str, object]] = workload.compared()["spec"]["template"]["spec"].get("volumes", [])
    return found
