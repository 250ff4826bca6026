"""Archives among a model's files: only what makes a model comes out of them."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from octavo_engine.errors import DownloadRefused, ModelNotFound
from octavo_engine.sources.repository import RemoteFile, distinct
from octavo_engine.sources.wanted import is_gguf, may_be_taken, wanted

COPIED_AT_ONCE = 1 << 20  # bytes
_FRAME = b"\x28\xb5\x2f\xfd"  # how zstd begins
_SKIPPABLE = b"\x2a\x4d\x18"  # or how, after a byte of 0x50 to 0x5f
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError)


def room_to_unpack(files: Sequence[RemoteFile]) -> int:
    """Bytes that are needed beside the archives, at the least: how much comes out of one shows only then."""
    return sum(file.size for file in distinct(files) if file.unpack)


def unpack_archives(folder: Path, files: Sequence[RemoteFile], inside: str, source: str) -> None:
    """Leave in ``folder`` only the model that ``files``, archives and plain ones, hold.

    ``inside``: its folder or .gguf file in them; empty: the folder nearest to the root that has a model.
    Errors: :class:`DownloadRefused` for a broken archive, :class:`ModelNotFound` where there is no model.
    """
    if not any(file.unpack for file in files):
        return
    scratch = folder / ".unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in files:  # later layers lie over earlier ones
        if file.unpack:
            _extract(folder / file.path, scratch, source)
        elif (folder / file.path).exists():  # it may be listed twice
            _lay(folder / file.path, scratch / file.path)
    for file in _model(scratch, inside, source):
        _lay(scratch / file.key, folder / file.path)
    shutil.rmtree(scratch)
    for file in distinct(files):
        if file.unpack:
            (folder / file.path).unlink()


def _lay(path: Path, over: Path) -> None:
    over.parent.mkdir(parents=True, exist_ok=True)
    path.replace(over)


def _extract(archive: Path, scratch: Path, source: str) -> None:
    try:
        with _opened(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and _is_safe(member.name) else None
                if content is not None:
                    _write(content, scratch / member.name.lstrip("/"))
    except _BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise DownloadRefused(
            f"The layer {archive.name} of {source} cannot be unpacked: {reason}; push it again."
        ) from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The tar in ``archive``, whatever compresses it: media types do not always tell."""
    with archive.open("rb") as file:
        head = file.read(len(_FRAME))
        file.seek(0)
        if head != _FRAME and head[1:] != _SKIPPABLE:
            with tarfile.open(fileobj=file) as tar:
                yield tar
            return
        content = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        with content, tarfile.open(fileobj=content, mode="r|") as tar:
            yield tar


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, COPIED_AT_ONCE)
        file.flush()
        os.fsync(file.fileno())


def _is_safe(name: str) -> bool:
    """Links and names that lead outside are never followed: Python 3.11.2 has no filter for that."""
    path = PurePosixPath(name)
    return ".." not in path.parts and may_be_taken(path.as_posix())


def _model(scratch: Path, inside: str, source: str) -> list[RemoteFile]:
    """The model's files; their keys are their paths below ``scratch``. Errors: ModelNotFound."""
    paths = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
    files = [RemoteFile(path.as_posix(), path.as_posix(), 0) for path in paths]
    if is_gguf(inside):
        same = [path for path in paths if f"/{path.as_posix()}".endswith(f"/{inside}")]
        nearest = min(same, key=_depth, default=Path(inside))
        return wanted(files, nearest.as_posix(), source)
    folders = {path.parent for path in paths if path.name == "config.json" or is_gguf(path.name)}
    refused: ModelNotFound | None = None
    for folder in sorted(folders, key=_depth):
        if folder.is_relative_to(inside):
            try:
                return wanted(files, "" if folder == Path() else folder.as_posix(), source)
            except ModelNotFound as error:  # a part of a model; the whole may lie deeper
                refused = refused or error
    where = f" at {inside}" if inside else ""
    raise refused or ModelNotFound(f"{source} holds neither a config.json nor a GGUF file{where}.")


def _depth(path: Path) -> tuple[int, Path]:
    """The nearest to the root first."""
    return len(path.parts), path
