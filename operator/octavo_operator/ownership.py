"""Whose fields an object's are. Pure.

A child is created by POST, which costs the API server less than an apply that creates. What is created so
is held by an Update, and an apply never removes such a field: before a child's first apply its fields are
handed over. https://kubernetes.io/docs/reference/using-api/server-side-apply
"""

from collections.abc import Iterable
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


def handed_over(entries: Iterable[dict[str, Any]], manager: str) -> list[dict[str, Any]]:
    """metadata.managedFields with the `manager`'s by Update added to those that it holds by Apply."""
    kept: list[dict[str, Any]] = []
    applied: dict[str, dict[str, Any]] = {}
    for entry in entries:
        held = msgspec.convert(entry, Held)
        if held.is_update_of(manager) or (held.manager, held.operation) == (manager, APPLY):
            version = str(entry.get("apiVersion"))
            fields = joined(applied.get(version, {}).get("fieldsV1", {}), entry.get("fieldsV1", {}))
            applied[version] = {**entry, "operation": APPLY, "fieldsV1": fields}
        else:
            kept.append(entry)
    return [*applied.values(), *kept]


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The union of two sets of fields, each a tree as FieldsV1 has it."""
    return {name: joined(one.get(name, {}), other.get(name, {})) for name in (one | other)}
