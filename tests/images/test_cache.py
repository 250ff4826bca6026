"""What is made once and kept."""

import os
from pathlib import Path

import pytest
from images.cache import cache_root, keep_newest, key_of, made_once


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OCTAVO_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/octavo"),
        ({"HOME": "/c"}, "/c/.cache/octavo"),
    ],
)
def test_the_cache_is_where_the_most_explicit_setting_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("OCTAVO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == Path(expected)


def test_keys_tell_parts_from_their_concatenation() -> None:
    assert key_of(["ab", "c"]) != key_of(["a", "bc"])
    assert key_of(["a", b"b"]) == key_of([b"a", "b"])


def test_a_thing_is_made_once() -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("content")

    paths = {made_once("kind", "key", make) for _ in range(3)}
    assert [path.read_text() for path in paths] == ["content"]
    assert len(made) == 1


def test_a_failed_making_leaves_nothing_that_looks_made(cache: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once("kind", "key", fail)
    assert [path for path in (cache / "kind").iterdir() if not path.name.startswith(".")] == []
    assert made_once("kind", "key", Path.mkdir).is_dir()


def test_only_the_newest_are_kept_with_what_lies_beside_them(cache: Path) -> None:
    keys = ["0" * 16, "1" * 16, "2" * 16]
    for age, key in enumerate(keys):
        for name in (f"code-engine-{key}.tar", f"code-engine-{key}.tar.sha256"):
            made_once("images", name, Path.touch)
        _set_age(cache / "images" / f"code-engine-{key}.tar", 1000 + age)
    made_once("images", f"site-engine-{keys[0]}", Path.mkdir)
    keep_newest("images", "code-engine", 2)
    left = sorted(path.name for path in (cache / "images").iterdir() if not path.name.startswith("."))
    assert left == [
        *(f"code-engine-{key}{end}" for key in keys[1:] for end in (".tar", ".tar.sha256")),
        f"site-engine-{keys[0]}",
    ]


def _set_age(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))
