"""The checksums that hubs, buckets and registries publish."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["sha256", "git", "md5", "md5-parts"]


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """``git``: the id of a git blob. ``md5-parts``: an S3 ETag of an upload in parts."""

    kind: Kind
    value: str
    part_size: int = 0  # bytes

    def begin(self, size: int) -> Digest:
        """A digest to be fed all of the file's ``size`` bytes."""
        if self.kind == "sha256":
            return hashlib.sha256()
        if self.kind == "git":
            return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        return _PartsDigest(self.part_size) if self.kind == "md5-parts" else _md5()


class _PartsDigest:
    """The MD5 of the MD5s of all parts, with their number behind a dash."""

    def __init__(self, part_size: int) -> None:
        self._size = part_size
        self._room = part_size
        self._part = _md5()
        self._parts = b""

    def update(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            if not self._room:
                self._close()
            piece, view = view[: self._room], view[self._room :]
            self._part.update(piece)
            self._room -= len(piece)

    def hexdigest(self) -> str:
        parts = self._parts + self._part.digest()
        return f"{_md5(parts).hexdigest()}-{len(parts) // 16}"

    def _close(self) -> None:
        self._parts += self._part.digest()
        self._part, self._room = _md5(), self._size


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
