"""Fields are handed over from Update to Apply, and nobody else's are touched."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.ownership import handed_over, joined


def entry(operation: str, fields: dict[str, Any], manager: str = "me", **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields, **more}


OTHERS = [
    entry("Update", {"f:status": {}}, "controller", subresource="status"),
    entry("Update", {"f:status": {}}, subresource="status"),
    entry("Apply", {"f:spec": {"f:replicas": {}}}, "me-scale"),
]


def test_what_was_created_is_applied() -> None:
    fields = {"f:spec": {".": {}, "f:ports": {'k:{"port":80}': {"f:name": {}}}}}
    assert handed_over([*OTHERS, entry("Update", fields)], "me", {}) == [entry("Apply", fields), *OTHERS]


def test_what_was_applied_before_stays_so() -> None:
    one, other = {"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}}, {"f:spec": {"f:b": {"f:d": {}}}}
    both = {"f:spec": {"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}}
    assert handed_over([entry("Apply", one), entry("Update", other)], "me", {}) == [entry("Apply", both)]


def test_there_is_one_apply_of_a_manager_in_whatever_version() -> None:
    """The API server tells Applies apart by their managers alone."""
    former = entry("Apply", {"f:a": {}}) | {"apiVersion": "v1beta1"}
    found = handed_over([former, entry("Update", {"f:b": {}})], "me", {})
    assert found == [entry("Apply", {"f:a": {}, "f:b": {}})]


@pytest.mark.parametrize(
    ("spec", "held"), [({"replicas": 2}, {"f:a": {}, "f:replicas": {}}), ({"a": 1}, {"f:a": {}})]
)
def test_replicas_are_held_where_they_are_told(spec: dict[str, Any], held: dict[str, Any]) -> None:
    created = entry("Update", {"f:spec": {"f:a": {}, "f:replicas": {}}})
    assert handed_over([created], "me", {"spec": spec}) == [entry("Apply", {"f:spec": held})]


def test_where_nothing_is_held_nothing_changes() -> None:
    assert handed_over(OTHERS, "me", {}) == OTHERS


TREES = st.recursive(
    st.just({}), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=12
)


def paths(tree: dict[str, Any], above: str = "") -> set[str]:
    return {above}.union(*(paths(below, f"{above}/{name}") for name, below in tree.items()))


@given(TREES, TREES)
def test_the_union_has_the_fields_of_both_and_no_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert paths(joined(one, other)) == paths(one) | paths(other)
