"""Does the cluster have the image volumes that the operator was told it has? Pure."""

from octavo_operator.api import LLMDeployment
from octavo_operator.causes import Cause
from octavo_operator.desired.source import is_image
from octavo_operator.observed import Child


def lost_volume(llmd: LLMDeployment, image_volumes: bool, deployment: Child | None) -> list[Cause]:
    """An API server without the feature takes the Deployment and leaves the volume out, without a word."""
    if deployment is None or not is_image(llmd.spec.model, image_volumes):
        return []
    volumes = deployment.compared()["spec"]["template"]["spec"].get("volumes", ())
    if any(volume["name"] == "models" for volume in volumes):
        return []
    text = (
        "this cluster has no image volumes: set engine.imageVolumes of the chart to false, "
        "so that the model is downloaded, or enable the feature ImageVolume of API server and kubelets"
    )
    return [Cause("ImageVolumesMissing", text, final=True)]
