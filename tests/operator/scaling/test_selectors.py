import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.scaling.selectors import parse

LABELS = {"app": "llm", "tier": "gpu", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=llm", True),
        ("app==llm,tier=gpu", True),
        ("app=llm, tier=cpu", False),
        ("app!=llm", False),
        ("missing!=x", True),
        ("app in (llm, web)", True),
        ("app in (web)", False),
        ("app notin (web)", True),
        ("missing notin (web)", True),
        ("tier", True),
        ("missing", False),
        ("!missing", True),
        ("!tier", False),
        ("empty=", True),
        ("app.kubernetes.io/name=x", False),
    ],
)
def test_selector(selector: str, matches: bool) -> None:
    assert parse(selector)(LABELS) is matches


@pytest.mark.parametrize("selector", ["a in b", "=x", "a=b=c", "a,,b", "(", "a in (b"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="is not a label selector"):
        parse(selector)


NAMES = st.text("abc-./", min_size=1, max_size=6).filter(lambda name: name not in ("in", "notin"))


@given(st.dictionaries(NAMES, NAMES, max_size=4))
def test_a_pod_matches_its_own_labels(labels: dict[str, str]) -> None:
    assert parse(",".join(f"{name}={value}" for name, value in labels.items()))(labels)
