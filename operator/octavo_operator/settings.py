"""The operator's settings, read once from the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec
import yaml

from octavo_operator.api import NetworkAccess, PodDefaults, ScalingDefaults
from octavo_operator.desired.meta import Defaults
from octavo_operator.errors import SettingsError
from octavo_operator.names import PORT

PREFIX = "OCTAVO_"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]
PullPolicy = Literal["", "Always", "IfNotPresent", "Never"]

T = TypeVar("T", bound=msgspec.Struct)

_SWITCH = {"true": True, "1": True, "false": False, "0": False}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """docs/operator.md tells what each is for; in the environment it is OCTAVO_ and the field in capitals."""

    engine_image: str
    engine_cuda_image: str = ""
    engine_image_pull_policy: PullPolicy = ""
    namespace: str = "octavo-system"
    lease: str = "octavo-operator"
    identity: str = ""
    watch_namespaces: tuple[str, ...] = ()
    pod_defaults: str = ""
    scaling_defaults: str = ""
    network_access: str = ""
    image_volumes: bool = False
    metrics_api: bool = True
    service_name: str = "octavo-operator"
    http_port: int = 8080
    metrics_port: int = 6443
    engine_port: int = PORT
    bind_address: str = "0.0.0.0"
    workers: int = 32
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"


def variables() -> list[str]:
    """Every variable that is read."""
    return [PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)]


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings of an environment; names it does not know are left alone.

    Raises:
        SettingsError: one is missing or has a value that cannot be used.
    """
    given = {
        field.name: _parsed(PREFIX + field.name.upper(), field.type, environment[PREFIX + field.name.upper()])
        for field in msgspec.structs.fields(Settings)
        if PREFIX + field.name.upper() in environment
    }
    if not given.get("engine_image"):
        raise SettingsError(
            "OCTAVO_ENGINE_IMAGE is not set: name the engine's image, such as octavo-engine:0.1.0"
        )
    return Settings(**given)


def _parsed(name: str, kind: Any, text: str) -> Any:
    choices = get_args(kind)
    if kind is bool:
        return _one_of(name, _SWITCH, text.lower())
    if kind is int:
        if not text.isdecimal():
            raise SettingsError(f"{name} is {text!r}: give a number")
        return int(text)
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _one_of(name, {str(c): c for c in choices}, text) if choices else text


def _one_of(name: str, choices: Mapping[str, Any], text: str) -> Any:
    if text not in choices:
        raise SettingsError(f"{name} is {text!r}: give one of {', '.join(c for c in choices if c)}")
    return choices[text]


def defaults(settings: Settings) -> Defaults:
    """What the settings say of every resource.

    Raises:
        SettingsError: the file of pod defaults cannot be read.
    """
    return Defaults(
        engine_image=settings.engine_image,
        engine_cuda_image=settings.engine_cuda_image or None,
        image_pull_policy=settings.engine_image_pull_policy or None,
        image_volumes=settings.image_volumes,
        engine_clients=network_access(settings.network_access).engine_clients,
        pod=pod_defaults(settings.pod_defaults),
        scaling=scaling_defaults(settings.scaling_defaults),
    )


def pod_defaults(path: str) -> PodDefaults:
    """Read the podTemplate that lies under every resource's own; no path means none."""
    return _read_file("OCTAVO_POD_DEFAULTS", path, PodDefaults, "a podTemplate")


def scaling_defaults(path: str) -> ScalingDefaults:
    """Read what counts for autoscaled resources that do not say; no path means what was found best."""
    name = "OCTAVO_SCALING_DEFAULTS"
    found = _read_file(name, path, ScalingDefaults, "targets and behavior of autoscaling")
    if not (found.concurrency or found.kv_cache_usage or found.queue_depth):
        raise SettingsError(
            f"{name}: {path} switches every signal off, and an HPA without one scales by CPU: "
            "give concurrency, kvCacheUsage or queueDepth above 0"
        )
    return found


def network_access(path: str) -> NetworkAccess:
    """Read who may reach engines; no path means anybody."""
    return _read_file("OCTAVO_NETWORK_ACCESS", path, NetworkAccess, "a list `engineClients` of peers")


def _read_file(name: str, path: str, kind: type[T], what: str) -> T:
    if not path:
        return kind()
    try:
        return msgspec.convert(yaml.safe_load(Path(path).read_text()) or {}, kind)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise SettingsError(f"{name}: {path} cannot be used as {what}: {error}") from error
