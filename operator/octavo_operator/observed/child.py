"""One child of a resource, as it is at the API server."""

from collections.abc import Mapping
from typing import Any

import msgspec

from octavo_operator.names import (
    DEPLOYMENT_LABEL,
    FIELD_MANAGER,
    HASH_ANNOTATION,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    SCALED_BY_ANNOTATION,
    TEMPLATE_ANNOTATION,
    Key,
)
from octavo_operator.observed.wire import Condition, Meta, Wire
from octavo_operator.ownership import Held

SCALED = frozenset({"Deployment", "StatefulSet", "GroupScale"})
"""Kinds with a number of replicas."""


def slot(kind: str, name: str, resource: str) -> str:
    """`Deployment`, or `StatefulSet NAME` where the child is not named like its resource."""
    return kind if name == resource or not resource else f"{kind} {name}"


class DeploymentStatus(Wire, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    conditions: list[Condition] = msgspec.field(default_factory=list)


class Child(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """One child; `content` is JSON of the parts that are compared with what is desired."""

    kind: str
    key: Key
    uid: str
    version: int
    resource: str = ""  # name of the LLMDeployment, as its label says
    generation: int = 0
    owner_uid: str | None = None  # of the controller
    owner_name: str = ""  # of the controller, where that is an LLMDeployment
    labelled: bool = True
    hash: str = ""
    scaled_by: str = ""
    template: str = ""  # hash of the pod template of a group
    leaving: bool = False
    held_by_update: bool = False  # fields that an apply would not remove: see ownership
    replicas: int | None = None
    status: DeploymentStatus = DeploymentStatus()
    content: bytes = b"{}"

    @property
    def slot(self) -> str:
        """Its place among the resource's children."""
        return slot(self.kind, self.key[1], self.resource)

    @property
    def ready(self) -> bool:
        """Of a group: all of its pods are there and ready."""
        found = self.status
        seen = found.observed_generation >= self.generation
        return not self.leaving and seen and found.ready_replicas == self.replicas

    def is_of(self, uid: str) -> bool:
        """Owned by that resource, or left behind without an owner by a former one."""
        return self.owner_uid == uid or (self.owner_uid is None and self.labelled)

    def is_of_former(self, key: Key, uid: str) -> bool:
        """Owned by a deleted resource of that name: the garbage collector is about to delete it."""
        return self.key[0] == key[0] and self.owner_name == key[1] and self.owner_uid != uid

    def compared(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.content)
        return found

    def same_as(self, other: "Child | None") -> bool:
        """Equal but for the version: nothing that is looked at has changed."""
        return other is not None and msgspec.structs.replace(self, version=other.version) == other


class _ChildMeta(Meta, frozen=True):
    managed_fields: list[Held] = msgspec.field(default_factory=list)


class _ChildObject(Wire, frozen=True):
    metadata: _ChildMeta
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")
    automount_service_account_token: bool | None = None


class _Scale(Wire, frozen=True):
    replicas: int | None = None


_child_decoder = msgspec.json.Decoder(_ChildObject)
_scale_decoder = msgspec.json.Decoder(_Scale)
_status_decoder = msgspec.json.Decoder(DeploymentStatus)
_encoder = msgspec.json.Encoder()


def decode_child(kind: str, data: bytes | msgspec.Raw) -> Child:
    """Return the child of an API object's JSON."""
    found = _child_decoder.decode(data)
    meta = found.metadata
    content = {
        "metadata": {"labels": meta.labels},
        "spec": found.spec,
        "automountServiceAccountToken": found.automount_service_account_token,
    }
    scaled = kind in SCALED
    owner = next((o for o in meta.owner_references if o.controller), None)
    resource = meta.labels.get(DEPLOYMENT_LABEL, "")
    return Child(
        kind=kind,
        key=(meta.namespace, meta.name),
        uid=meta.uid,
        version=int(meta.resource_version),
        resource=resource,
        generation=meta.generation,
        owner_uid=owner.uid if owner else None,
        owner_name=_kept_once(owner.name, resource, meta.name) if owner and owner.is_resource else "",
        labelled=(resource == meta.name or (resource != "" and meta.name.startswith(f"{resource}-")))
        and meta.labels.get(MANAGED_BY_LABEL) == MANAGED_BY,
        hash=meta.annotations.get(HASH_ANNOTATION, ""),
        scaled_by=meta.annotations.get(SCALED_BY_ANNOTATION, ""),
        template=meta.annotations.get(TEMPLATE_ANNOTATION, ""),
        leaving=meta.deletion_timestamp is not None,
        held_by_update=any(held.is_update_of(FIELD_MANAGER) for held in meta.managed_fields),
        replicas=_scale_decoder.decode(found.spec).replicas if scaled else None,
        status=_status_decoder.decode(found.status) if scaled else DeploymentStatus(),
        content=_encoder.encode(content),
    )


def _kept_once(text: str, *kept: str) -> str:
    """That one of the strings kept anyway that is equal: with thousands of children each copy counts."""
    return next((each for each in kept if each == text), text)


Children = Mapping[str, Child]
"""The children of one resource by slot."""
