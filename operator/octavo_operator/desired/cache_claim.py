"""The PersistentVolumeClaim in which the pods of a resource keep a downloaded model."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.meta import Manifest, child
from octavo_operator.desired.source import is_downloaded


def cache_claim(llmd: LLMDeployment, image_volumes: bool) -> Manifest | None:
    """None where a claim is named or none is wanted."""
    model = llmd.spec.model
    cache = model.cache
    if cache is None or cache.size is None or not is_downloaded(model, image_volumes):
        return None
    storage_class = cache.storage_class_name
    spec = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": str(cache.size)}},
        **({} if storage_class is None else {"storageClassName": storage_class}),
    }
    return child(llmd, "v1", "PersistentVolumeClaim", spec=spec)
