"""What the router reads of Kubernetes objects, and what it means. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from hashlib import sha256

import msgspec

from octavo_router.endpoints import Address
from octavo_router.keys import MAX_LIMIT, MIN_LENGTH, KeySpec
from octavo_router.routing import Deployment

DEPLOYMENT_LABEL = "octavo.dev/deployment"
SERVING_SLICES = f"{DEPLOYMENT_LABEL},!service.kubernetes.io/headless"
"""A headless Service names all pods of a group, of which only the leader answers."""
API_KEYS_LABEL = "octavo.dev/api-keys"
TOKEN_LIMIT = "octavo.dev/tokens-per-minute"
SCALED_TO_ZERO = "ScaledToZero"
_LONGEST_MESSAGE = 500  # characters
_SHOWN = 40  # characters of a value that is wrong; an annotation may have 262,144


class Meta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    labels: dict[str, str] | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Routing(msgspec.Struct, gc=False):
    policy: str | None = None
    weight: int | None = None
    fallback: str | None = None


class _Autoscaling(msgspec.Struct, rename="camel", gc=False):
    min_replicas: int = 1


class _Spec(msgspec.Struct, rename="camel", gc=False):
    served_name: str | None = None
    aliases: list[str] | None = None
    routing: _Routing = msgspec.field(default_factory=_Routing)
    autoscaling: _Autoscaling = msgspec.field(default_factory=_Autoscaling)


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct, gc=False):
    conditions: list[_Condition] | None = None

    @property
    def idle(self) -> bool:
        return any(c.type == "Ready" and c.reason == SCALED_TO_ZERO for c in self.conditions or ())

    @property
    def stalled(self) -> str:
        found = (c for c in self.conditions or () if c.type == "Stalled" and c.status == "True")
        return next((c.message[:_LONGEST_MESSAGE] or c.reason for c in found), "")


class LLMDeployment(msgspec.Struct, gc=False):
    metadata: Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    def deployment(self) -> Deployment:
        meta, spec = self.metadata, self.spec
        routing = spec.routing
        return Deployment(
            meta.key,
            spec.served_name or meta.name,
            tuple(spec.aliases or ()),
            meta.creation_timestamp,
            meta.namespace,
            routing.policy,
            routing.weight,
            f"{meta.namespace}/{routing.fallback}" if routing.fallback else None,
            spec.autoscaling.min_replicas == 0,
            self.status.idle,
            self.status.stalled,
        )


class _SecretMeta(Meta, rename="camel", gc=False):
    annotations: dict[str, str] | None = None


class KeySecret(msgspec.Struct, gc=False):
    """A Secret of API keys: each entry of `data` is one, named by the entry."""

    metadata: _SecretMeta
    data: dict[str, str] | None = None

    def keys(self, warn: Callable[[str], None]) -> tuple[KeySpec, ...]:
        """Its keys; none, with a warning, when its limit cannot be read: no limit would be too much."""
        meta = self.metadata
        limit = (meta.annotations or {}).get(TOKEN_LIMIT)
        if limit is not None and not _is_limit(limit):
            shown = limit if len(limit) <= _SHOWN else f"{limit[:_SHOWN]}..."
            warn(
                f"The API keys of Secret {meta.key} are not accepted: its annotation {TOKEN_LIMIT} is "
                f"{shown!r}; make it a whole number from 1 to {MAX_LIMIT}, or remove it."
            )
            return ()
        specs = []
        for entry, encoded in (self.data or {}).items():
            key = base64.b64decode(encoded).strip()
            if len(key) < MIN_LENGTH:
                warn(
                    f"The API key {meta.key}/{entry} is not accepted: it has {len(key)} characters; "
                    f"use at least {MIN_LENGTH}."
                )
                continue
            name = f"{meta.key}/{entry}"
            specs.append(KeySpec(name, meta.namespace, sha256(key).digest(), int(limit) if limit else None))
        return tuple(specs)


def _is_limit(text: str) -> bool:
    """The length is looked at first: Python reads no number of more than 4,300 digits."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and int(text) > 0


class _Conditions(msgspec.Struct, gc=False):
    """None means unknown, which the API asks to read as ready, serving and not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(msgspec.Struct, gc=False):
    uid: str = ""


class _Endpoint(msgspec.Struct, rename="camel", gc=False):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    target_ref: _Target | None = None

    @property
    def takes_requests(self) -> bool:
        """Ready, and not on its way out: what it runs goes on, but nothing new goes there."""
        c = self.conditions
        return c.ready is not False and c.serving is not False and not c.terminating


class _Port(msgspec.Struct, gc=False):
    port: int | None = None
    name: str | None = None


class EndpointSlice(msgspec.Struct, rename="camel", gc=False):
    metadata: Meta
    address_type: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None

    @property
    def deployment_key(self) -> str:
        """The key of the deployment whose pods these are."""
        return f"{self.metadata.namespace}/{(self.metadata.labels or {}).get(DEPLOYMENT_LABEL, '')}"

    def addresses(self, port_name: str) -> frozenset[Address]:
        """Where requests may go: the first address of each pod that takes them, at the named or only port."""
        port = self._port(port_name)
        if port is None or self.address_type not in ("IPv4", "IPv6"):
            return frozenset()
        return frozenset(
            Address(e.addresses[0], port, e.target_ref.uid if e.target_ref else "")
            for e in self.endpoints or ()
            if e.takes_requests and e.addresses
        )

    def _port(self, name: str) -> int | None:
        ports = self.ports or []
        named = [p.port for p in ports if p.name == name]
        return named[0] if named else (ports[0].port if len(ports) == 1 else None)


def merge(slices: Iterable[frozenset[Address]]) -> list[Address]:
    """The pods of all slices of one Service; one that has an IPv4 and an IPv6 address counts once."""
    merged: dict[str, Address] = {}
    for address in sorted(frozenset().union(*slices), key=lambda a: (":" in a.host, a.host, a.port)):
        merged.setdefault(address.uid or f"{address.host} {address.port}", address)
    return list(merged.values())
