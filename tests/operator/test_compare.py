from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.compare import amount, is_part, same_quantity

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, True, id="more keys are fine"),
        pytest.param({"a": 1}, {"a": 2}, False, id="another value is not"),
        pytest.param({"a": 1}, {}, False, id="an absent value is not"),
        pytest.param({"a": {}}, {}, True, id="an empty map is the same as none"),
        pytest.param({"a": []}, {}, True, id="an empty list is the same as none"),
        pytest.param({"a": False}, {}, False, id="false is something"),
        pytest.param(
            {"args": ["x"]}, {"args": ["x", "y"]}, False, id="a longer argument list is not the same"
        ),
        pytest.param(
            {"c": [{"name": "e"}]},
            {"c": [{"name": "s"}, {"name": "e"}]},
            True,
            id="an injected sidecar is fine",
        ),
        pytest.param(
            {"c": [{"name": "e", "i": 1}]}, {"c": [{"name": "e", "i": 2}]}, False, id="a changed item is not"
        ),
        pytest.param({"c": [{"name": "e"}]}, {"c": []}, False, id="a removed item is not"),
        pytest.param(
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]},
            {"volumeMounts": [{"name": "v", "mountPath": "/b"}, {"name": "v", "mountPath": "/a"}]},
            True,
            id="mounts are told apart by path",
        ),
        pytest.param(
            {"requests": {"cpu": "1000m"}},
            {"requests": {"cpu": "1"}},
            True,
            id="quantities are compared by amount",
        ),
        pytest.param(
            {"env": [{"name": "A", "value": "1000m"}]},
            {"env": [{"name": "A", "value": "1"}]},
            False,
            id="text is not",
        ),
        pytest.param({"limits": {"memory": "1Gi"}}, {"limits": {}}, False, id="a removed limit is seen"),
    ],
)
def test_is_part(desired: Any, observed: Any, expected: bool) -> None:
    assert is_part(desired, observed) is expected


@given(JSON)
def test_everything_is_a_part_of_itself(value: Any) -> None:
    assert is_part(value, value)


@given(
    st.dictionaries(st.text(max_size=4), JSON, max_size=4),
    st.dictionaries(st.text(max_size=4), JSON, max_size=4),
)
def test_additions_of_others_are_no_drift(own: dict[str, Any], others: dict[str, Any]) -> None:
    assert is_part(own, {**others, **own})


@pytest.mark.parametrize(
    ("one", "other"), [("1024Mi", "1Gi"), ("0.5", "500m"), ("1e3", "1k"), ("2000k", "2M"), ("1", "1.0")]
)
def test_same_amounts_in_other_spellings(one: str, other: str) -> None:
    assert same_quantity(one, other)


@pytest.mark.parametrize("text", ["", "much", "1Xi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        amount(text)
