"""What all children have in common: names, labels, the owner, and the hash of what is desired."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from octavo_operator.api import LLMDeployment, Passthrough, PodTemplate, ScalingDefaults
from octavo_operator.names import (
    API_VERSION,
    DEPLOYMENT_LABEL,
    HASH_ANNOTATION,
    KIND,
    MANAGED_BY,
    MANAGED_BY_LABEL,
)

Manifest = dict[str, Any]


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator's settings say of every resource."""

    engine_image: str
    engine_cuda_image: str | None = None
    image_pull_policy: str | None = None
    image_volumes: bool = False  # the cluster mounts oci:// models itself
    engine_clients: list[Passthrough] | None = None  # NetworkPolicy peers; None: anybody, without a policy
    pod: PodTemplate = PodTemplate()
    scaling: ScalingDefaults = ScalingDefaults()


def by(field: str, *lists: Iterable[Passthrough]) -> list[Passthrough]:
    """The lists' items, of which a later one takes the place of an earlier one with the same `field`."""
    return list({item[field]: item for items in lists for item in items}.values())


def selector(name: str) -> dict[str, str]:
    """Labels that select the engine pods of a resource; they never change."""
    return {DEPLOYMENT_LABEL: name}


def labels(name: str) -> dict[str, str]:
    """Labels of every child and of every engine pod."""
    return {
        **selector(name),
        MANAGED_BY_LABEL: MANAGED_BY,
        "app.kubernetes.io/name": "octavo-engine",
        "app.kubernetes.io/instance": name,
    }


def digest(value: object) -> str:
    """A short hash that is equal for equal JSON values."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]


def child(llmd: LLMDeployment, api_version: str, kind: str, name: str = "", **content: Any) -> Manifest:
    """A child's manifest with its owner; `content` are its parts beside the metadata, annotations apart.

    It is named like the resource unless it has a `name` of its own.
    """
    annotations = content.pop("annotations", {})
    metadata = {
        "name": name or llmd.metadata.name,
        "namespace": llmd.metadata.namespace,
        "labels": labels(llmd.metadata.name),
        "annotations": annotations,
        "ownerReferences": [owner_reference(llmd)],
    }
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}
    metadata["annotations"] = {**annotations, HASH_ANNOTATION: digest(manifest)}
    return manifest


def owner_reference(llmd: LLMDeployment) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": llmd.metadata.name,
        "uid": llmd.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
