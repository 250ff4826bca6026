"""The container that downloads the model before the engine starts."""

from octavo_operator.api import Model
from octavo_operator.desired.meta import Manifest, by
from octavo_operator.desired.source import MODELS_PATH, link_name
from octavo_operator.names import FETCH_CONTAINER, PORT

_SECRETS: dict[str, dict[str, str]] = {
    "hf": {"HF_TOKEN": "token"},
    "s3": {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"},
    "oci": {"OCTAVO_REGISTRY_AUTH": ".dockerconfigjson"},
}
"""By scheme: environment variables and the keys of the Secret that they come from."""


def fetch_container(model: Model, like: Manifest) -> Manifest:
    """`like` is the engine's container as far as both are the same.

    It listens where the engine will: there the operator asks how far it is.
    """
    return {
        **like,
        "name": FETCH_CONTAINER,
        "args": [
            "fetch",
            model.source,
            f"--cache={MODELS_PATH}",
            f"--link={link_name(model)}",
            f"--port={PORT}",
            *([f"--endpoint={model.endpoint}"] if model.endpoint else []),
            *([f"--region={model.region}"] if model.region else []),
        ],
        "env": by("name", like["env"], credentials(model)),
        "volumeMounts": [*like["volumeMounts"], {"name": "models", "mountPath": MODELS_PATH}],
    }


def credentials(model: Model) -> list[Manifest]:
    """Only this container has them; a Secret or key that is not there is told by the kubelet."""
    if model.secret_name is None:
        return []
    scheme = model.source.partition("://")[0]
    found = [_from_secret(name, model.secret_name, key) for name, key in _SECRETS[scheme].items()]
    if scheme == "s3":
        found.append(_from_secret("AWS_SESSION_TOKEN", model.secret_name, "AWS_SESSION_TOKEN", optional=True))
    return found


def _from_secret(name: str, secret: str, key: str, optional: bool = False) -> Manifest:
    reference = {"name": secret, "key": key, **({"optional": True} if optional else {})}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}
