from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_engine.sources.checksum import Checksum

TEXT = b"what is up, doc?"


@pytest.mark.parametrize(
    ("checksum", "expected"),
    [
        (Checksum("sha256", ""), hashlib.sha256(TEXT).hexdigest()),
        (Checksum("git", ""), "bd9dbf5aae1a3862dd1526723246b20206e5fc37"),  # from Git's own book
        (Checksum("md5", ""), hashlib.md5(TEXT).hexdigest()),
    ],
)
def test_the_published_kinds(checksum: Checksum, expected: str) -> None:
    digest = checksum.begin(len(TEXT))
    digest.update(TEXT)
    assert digest.hexdigest() == expected


@given(content=st.binary(min_size=1, max_size=200), part=st.integers(1, 50), cut=st.integers(1, 60))
def test_an_upload_in_parts_is_the_same_however_it_is_read(content: bytes, part: int, cut: int) -> None:
    digest = Checksum("md5-parts", "", part).begin(len(content))
    for at in range(0, len(content), cut):
        digest.update(content[at : at + cut])
    parts = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    assert digest.hexdigest() == f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
