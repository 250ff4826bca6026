"""Whose fields an object's are. Pure.

A child is created by POST, which costs the API server less than an apply that creates. What is created so
is held by an Update, and an apply never removes such a field: before a child's first apply its fields are
handed over. https://kubernetes.io/docs/reference/using-api/server-side-apply
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

UPDATE: Final = "Update"
APPLY: Final = "Apply"


class Held(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """One of metadata.managedFields, but for the fields."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""

    def is_update_of(self, manager: str) -> bool:
        return (self.manager, self.operation, self.subresource) == (manager, UPDATE, "")


def handed_over(
    entries: Iterable[dict[str, Any]], manager: str, manifest: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """metadata.managedFields with the `manager`'s by Update added to those that it holds by Apply.

    Defaults are among them, and come back as such; but the number of replicas is left to whoever scales,
    where the `manifest` to be applied has none.
    """
    kept: list[dict[str, Any]] = []
    applied: dict[str, Any] = {}  # there is one of a manager, whatever its apiVersion
    for entry in entries:
        held = msgspec.convert(entry, Held)
        fields = entry.get("fieldsV1", {})
        if held.is_update_of(manager):
            if "replicas" not in manifest.get("spec", {}):
                fields = _without_replicas(fields)
        elif (held.manager, held.operation) != (manager, APPLY):
            kept.append(entry)
            continue
        applied = {**entry, "operation": APPLY, "fieldsV1": joined(applied.get("fieldsV1", {}), fields)}
    return [applied, *kept] if applied else kept


def _without_replicas(fields: dict[str, Any]) -> dict[str, Any]:
    spec = {name: below for name, below in fields.get("f:spec", {}).items() if name != "f:replicas"}
    return {**fields, "f:spec": spec} if "f:spec" in fields else fields


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The union of two sets of fields, each a tree as FieldsV1 has it."""
    return {name: joined(one.get(name, {}), other.get(name, {})) for name in (one | other)}
