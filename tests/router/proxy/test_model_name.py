"""The model's name is found wherever it stands in a body, and nothing else is built."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.errors import InvalidRequestError, MissingModelError
from octavo_router.proxy.model_name import model_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.text(), st.booleans())
def test_the_name_is_what_json_reads(fields: dict[str, Any], name: str, first: bool) -> None:
    body = {"model": name} | fields | {"model": name} if first else fields | {"model": name}
    for ascii_only in (True, False):
        assert model_of(json.dumps(body, ensure_ascii=ascii_only).encode()) == name


def test_of_two_names_the_last_counts_as_for_the_engine() -> None:
    assert (
        model_of(b'{"model": "a", "model": "b"}')
        == json.loads('{"model": "a", "model": "b"}')["model"]
        == "b"
    )


@pytest.mark.parametrize("body", [b"", b"{", b"x", b'{"model": "m"} x', b'{"model": "m', b"\xff"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON"):
        model_of(body)


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": ["m"]}', b'"m"', b'{"Model": "m"}'])
def test_what_names_no_model_is_refused(body: bytes) -> None:
    with pytest.raises(MissingModelError, match="`model`"):
        model_of(body)
