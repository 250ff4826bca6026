"""The model's source -> the volume that holds its files, and where in it the engine finds them."""

import hashlib

from octavo_operator.api import Cache, Model
from octavo_operator.desired.meta import Manifest

MODELS_PATH = "/models"
"""Where a claim, an image or the cache of downloaded models is mounted."""
DOWNLOADED = ("hf://", "s3://", "oci://")


def is_downloaded(model: Model, image_volumes: bool) -> bool:
    """True when a step before the engine fetches the files; image volumes are pulled by the node itself."""
    return model.source.startswith(DOWNLOADED) and not is_image(model, image_volumes)


def is_image(model: Model, image_volumes: bool) -> bool:
    return image_volumes and model.source.startswith("oci://")


def model_argument(model: Model, image_volumes: bool) -> str:
    """What the engine is told: a path inside its container, or the package."""
    source = model.source
    if is_downloaded(model, image_volumes):
        return f"{MODELS_PATH}/links/{link_name(model)}"
    if is_image(model, image_volumes):
        return _below_models(source.partition("#")[2])
    if source.startswith("pvc://"):
        return _below_models(source.removeprefix("pvc://").partition("/")[2])
    return source.removeprefix("file://")


def link_name(model: Model) -> str:
    """The name under which the cache keeps the model, so that a changed source is fetched anew."""
    return hashlib.sha256(f"{model.source}\n{model.endpoint or ''}".encode()).hexdigest()[:16]


def model_volume(model: Model, name: str, image_volumes: bool) -> Manifest | None:
    """What is mounted at MODELS_PATH for a resource of that name; None when the image has the files."""
    if model.source.startswith("pvc://"):
        claim = model.source.removeprefix("pvc://").split("/")[0]
        return {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    if is_image(model, image_volumes):
        reference = model.source.removeprefix("oci://").partition("#")[0]
        return {"image": {"reference": reference}}
    return cache_volume(model.cache or Cache(), name) if is_downloaded(model, image_volumes) else None


def cache_volume(cache: Cache, name: str) -> Manifest:
    claim = cache.claim_name or (name if cache.size is not None else None)
    if claim:
        return {"persistentVolumeClaim": {"claimName": claim}}
    if cache.host_path:
        return {"hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
    return {"emptyDir": {}}


def _below_models(path: str) -> str:
    return f"{MODELS_PATH}/{path.strip('/')}".rstrip("/")
