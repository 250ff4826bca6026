"""Where downloaded models lie, shared by all who mount the folder.

models/SLUG/REVISION[-PATH]/            a complete model; never changed afterwards
models/SLUG/REVISION[-PATH].partial/    one that is being downloaded
links/NAME                              symbolic link to the model that a source first led to
locks/NAME.lock, locks/NAME.json        held while somebody downloads, and how far that is
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from octavo_engine.sources.disk import disk_errors, no_room
from octavo_engine.sources.progress import Progress, Snapshot
from octavo_engine.sources.source import Source

POLL_SECONDS = 0.5


def default_root() -> Path:
    """``$OCTAVO_MODEL_CACHE``, else below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OCTAVO_MODEL_CACHE") or Path(base) / "octavo" / "models")


class Cache:
    def __init__(self, root: Path, pause: Callable[[float], None] = time.sleep) -> None:
        self.root = root
        self._pause = pause

    def link(self, name: str) -> Path:
        return self.root / "links" / name

    def linked(self, name: str) -> Path | None:
        """The complete model that a name leads to."""
        link = self.link(name)
        return link if link.is_dir() else None

    def set_link(self, name: str, folder: Path) -> Path:
        link = self.link(name)
        fresh = link.with_name(f".{name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            fresh.unlink()
        fresh.symlink_to(os.path.relpath(folder, link.parent))
        fresh.replace(link)
        return link

    def folder(self, source: Source, revision: str) -> Path:
        """The folder of a revision; another choice of its files is another model."""
        path = re.sub(r"[^A-Za-z0-9._-]+", "--", source.inside)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", revision) + (f"-{path}" if path else "")
        return self.root / "models" / source.slug / name

    def prepare(self) -> None:
        """Errors: :class:`DownloadRefused` when the cache cannot be written."""
        with disk_errors(self.root):
            for name in ("links", "locks", "models"):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def require_room(self, needed: int) -> None:
        """Errors: :class:`DownloadRefused` when so many bytes do not fit."""
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise no_room(self.root, needed, free)

    @contextmanager
    def locked(self, name: str, progress: Progress) -> Iterator[None]:
        """Hold the lock of ``name`` among all who share the cache; who waits shows the holder's progress.

        The kernel or the file server frees the lock of a process that dies.
        """
        with disk_errors(self.root):
            lock = (self.root / "locks" / f"{name}.lock").open("w")
        with lock:
            while not self._try_lock(lock.fileno()):
                if shared := self.shared(name):
                    progress.show(msgspec.structs.replace(shared, state="waiting"))
                self._pause(POLL_SECONDS)
            yield

    def share(self, name: str, snapshot: Snapshot) -> None:
        """Tell those who wait for this lock; a disk that is full is no reason to fail here."""
        with suppress(OSError):
            file = self.root / "locks" / f"{name}.json"
            fresh = file.with_name(f".{file.name}.{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(snapshot))
            fresh.replace(file)

    def shared(self, name: str) -> Snapshot | None:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.root / "locks" / f"{name}.json").read_bytes(), type=Snapshot)
        return None

    def _try_lock(self, descriptor: int) -> bool:
        with disk_errors(self.root):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
