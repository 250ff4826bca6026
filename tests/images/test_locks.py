"""An image lacks nothing that its code was tested with."""

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"


def names(name: str) -> set[str]:
    """The names in a lock file."""
    return set(re.findall(r"^(\S+)==", (REQUIREMENTS / f"{name}.lock").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("whole", "part"), [("ray", "engine"), ("dev", "ray"), ("dev", "operator"), ("dev", "router")]
)
def test_a_lock_has_all_that_a_part_of_it_has(whole: str, part: str) -> None:
    assert names(part) <= names(whole), "run requirements/lock.sh"
