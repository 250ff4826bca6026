"""The static mode: models and their URLs from a YAML file, for use without Kubernetes and for benches.

models:
  my-model:
    urls: [http://127.0.0.1:8000, http://127.0.0.1:8001]
    aliases: [gpt-4]
    policy: session
    fallback: another-model
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from octavo_router.endpoints import Address
from octavo_router.errors import SettingsError
from octavo_router.policies import PolicyName
from octavo_router.registry import Registry
from octavo_router.routing import Deployment


class StaticModel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    urls: list[str] = Field(min_length=1)
    aliases: list[str] = []
    policy: PolicyName | None = None
    fallback: str | None = None


class StaticFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: dict[str, StaticModel] = Field(min_length=1)


def load_static(path: Path, registry: Registry) -> None:
    """Fills the registry from the file. Raises SettingsError."""
    try:
        content = StaticFile.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise SettingsError(f"The static file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"The static file {path} is not YAML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"The static file {path} is wrong at {where or 'its top'}: {first['msg']}."
        ) from None
    registry.set_deployments(
        {
            name: Deployment(
                name,
                name,
                tuple(model.aliases),
                owner="static",
                policy=model.policy,
                fallback=model.fallback,
            )
            for name, model in content.models.items()
        }
    )
    for name, model in content.models.items():
        registry.set_addresses(name, [_address(url, path) for url in model.urls])


def _address(url: str, path: Path) -> Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise SettingsError(f"The static file {path} has the URL {url!r}: {error}.") from None
    if parts.scheme != "http" or host is None or parts.path not in ("", "/"):
        raise SettingsError(f"The static file {path} has the URL {url!r}; write it as http://HOST:PORT.")
    return Address(host, port)
