"""What an image has must be what its code was tested with."""

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"


def pins(name: str) -> set[str]:
    """The names and versions of a lock file."""
    return set(re.findall(r"^(\S+==\S+)", (REQUIREMENTS / f"{name}.lock").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("whole", "part"), [("ray", "engine"), ("dev", "ray"), ("dev", "operator"), ("dev", "router")]
)
def test_a_lock_has_all_that_a_part_of_it_has(whole: str, part: str) -> None:
    assert pins(part) <= pins(whole), "run requirements/lock.sh"
