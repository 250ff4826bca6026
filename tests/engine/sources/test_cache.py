from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from octavo_engine.errors import DownloadRefused
from octavo_engine.sources.cache import Cache, default_root
from octavo_engine.sources.disk import disk_errors
from octavo_engine.sources.progress import Progress, Snapshot
from octavo_engine.sources.source import parse


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    found = Cache(tmp_path / "cache")
    found.prepare()
    return found


def test_a_link_leads_to_its_model_wherever_the_cache_is_mounted(cache: Cache, tmp_path: Path) -> None:
    folder = cache.folder(parse("hf://org/m"), "abc")
    folder.mkdir(parents=True)
    assert cache.linked("mine") is None
    assert cache.set_link("mine", folder).resolve() == folder
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    assert Cache(tmp_path / "elsewhere").linked("mine") is not None


def test_a_link_to_a_model_that_was_removed_is_none(cache: Cache) -> None:
    folder = cache.folder(parse("hf://org/m"), "abc")
    folder.mkdir(parents=True)
    cache.set_link("mine", folder)
    folder.rmdir()
    assert cache.linked("mine") is None


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [
        ("hf://org/m", "abc", "hf-org--m/abc"),
        ("hf://org/m#a b/c.gguf", "abc", "hf-org--m/abc-a--b--c.gguf"),
        ("s3://bucket/deep/prefix", "abc", "s3-bucket/abc"),
        ("oci://r.io:5000/m:1", "sha256:12", "oci-r.io--5000--m/sha256-12"),
    ],
)
def test_each_revision_and_choice_of_files_has_its_folder(
    cache: Cache, source: str, revision: str, expected: str
) -> None:
    assert cache.folder(parse(source), revision) == cache.root / "models" / expected


def test_who_waits_for_a_lock_sees_its_holders_progress(cache: Cache) -> None:
    """The holder gives way in the first pause of the one who waits."""
    holder = cache.locked("m", Progress())
    holder.__enter__()
    cache.share("m", Snapshot("downloading", 42, 100, "f"))
    waiting = Progress()
    seen: list[Snapshot] = []

    def pause(_: float) -> None:
        seen.append(waiting.now)
        holder.__exit__(None, None, None)

    with Cache(cache.root, pause).locked("m", waiting):
        assert seen == [Snapshot("waiting", 42, 100, "f")]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space is left at /models for the model; give the cache a larger volume"),
        (errno.EDQUOT, "No space is left"),
        (errno.ENOLCK, "cannot be locked; use a volume with flock"),
        (errno.EACCES, f"Permission denied; make it writable for user {os.getuid()}"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_what_the_disk_says_is_a_sentence(number: int, words: str) -> None:
    with pytest.raises(DownloadRefused, match=words), disk_errors(Path("/models")):
        raise OSError(number, "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"OCTAVO_MODEL_CACHE": "/m", "XDG_CACHE_HOME": "/c"}, "/m"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/octavo/models"),
        ({"HOME": "/home/me"}, "/home/me/.cache/octavo/models"),
    ],
)
def test_where_the_cache_is(values: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OCTAVO_MODEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert default_root() == Path(expected)
