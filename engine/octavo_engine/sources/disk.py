"""What a disk says when it cannot do as it is told, as a sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from octavo_engine.errors import DownloadRefused
from octavo_engine.sources.progress import size_text


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Errors: :class:`DownloadRefused` in the place of an OSError."""
    try:
        yield
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(folder: Path, error: OSError) -> DownloadRefused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadRefused(f"No space is left at {folder} for the model; give the cache a larger volume.")
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return DownloadRefused(
            f"The model cache at {folder} cannot be locked; use a volume with flock (NFS 4, CephFS, a disk)."
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DownloadRefused(
        f"The model cache cannot be written at {folder}: {reason}; make it writable for user {os.getuid()}."
    )


def no_room(folder: Path, needed: int, free: int) -> DownloadRefused:
    return DownloadRefused(
        f"The model needs {size_text(needed)} more and {folder} has {size_text(free)} free; "
        "give the cache a larger volume."
    )
