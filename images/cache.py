"""What is built once and kept, under a key of all that it is built from."""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """`$OCTAVO_CACHE`, else `octavo` in the user's cache folder (XDG Base Directory Specification)."""
    if explicit := os.environ.get("OCTAVO_CACHE"):
        return Path(explicit).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "octavo"


def key_of(parts: Iterable[bytes | str]) -> str:
    """A short key that changes when any of `parts`, or their order, does."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def made_once(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The file or folder `KIND/KEY` of the cache, made when it is not there.

    `make` makes it at the path it is given. What it leaves is moved into place as a whole, and only one
    process makes it at a time.
    """
    kept = cache_root() / kind / key
    if kept.exists():
        return kept
    with locked(kept), tempfile.TemporaryDirectory(dir=kept.parent, prefix=".making-") as scratch:
        if not kept.exists():
            made = Path(scratch) / "made"
            make(made)
            shutil.move(made, kept)
    return kept


def keep_newest(kind: str, name: str, count: int) -> None:
    """Remove all but the `count` newest of what was made under keys `NAME-KEY`, and what lies beside them."""
    folder = cache_root() / kind
    made = [
        path
        for path in folder.glob(f"{name}-*")
        if re.fullmatch(rf"{name}-[0-9a-f]{{16}}(\.tar)?", path.name)
    ]
    keys = {path.name.removesuffix(".tar"): path.stat().st_mtime for path in made}
    for old in sorted(keys, key=keys.__getitem__)[:-count]:
        for path in (*folder.glob(f"{old}*"), *folder.glob(f".{old}*.lock")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, among all processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
