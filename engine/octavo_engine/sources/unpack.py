"""Archives among a model's files: only what makes a model comes out of them."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from octavo_engine.errors import DownloadRefused, ModelNotFound
from octavo_engine.sources.repository import RemoteFile
from octavo_engine.sources.wanted import is_gguf, is_taken

_MODEL = ("config.json",)
COPIED_AT_ONCE = 1 << 20  # bytes


def unpack_archives(folder: Path, files: Sequence[RemoteFile], inside: str) -> None:
    """Put the model that the archives among ``files`` hold into ``folder``, in their place.

    ``inside``: its folder or .gguf file in them; empty: the folder nearest to the root.
    Errors: :class:`DownloadRefused` for a broken archive, :class:`ModelNotFound` for one without a model.
    """
    archives = [folder / file.path for file in files if file.unpack]
    if not archives:
        return
    scratch = folder / ".unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    for archive in archives:  # later layers lie over earlier ones
        _extract(archive, scratch)
    model = _model_folder(scratch, inside)
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model)
        if path.is_file() and _is_wanted(name.as_posix(), inside):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
    shutil.rmtree(scratch)
    for archive in set(archives):
        archive.unlink()


def _extract(archive: Path, scratch: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and _may_be_taken(member.name) else None
                if content is not None:
                    _write(content, scratch / member.name.lstrip("/"))
    except (tarfile.TarError, EOFError) as error:
        raise DownloadRefused(f"The layer {archive.name} cannot be unpacked: {error}.") from error


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, COPIED_AT_ONCE)


def _may_be_taken(name: str) -> bool:
    """Links and names that lead outside are never followed: Python 3.11.2 has no filter for that."""
    path = PurePosixPath(name)
    if ".." in path.parts:
        return False
    return is_taken(path.name) or (
        path.suffix == ".jinja" and path.parent.name == "additional_chat_templates"
    )


def _is_wanted(name: str, inside: str) -> bool:
    return name == inside.rpartition("/")[2] if is_gguf(inside) else is_taken(name)


def _model_folder(scratch: Path, inside: str) -> Path:
    root = scratch / (inside.rpartition("/")[0] if is_gguf(inside) else inside)
    every = sorted(root.rglob("*"), key=lambda path: (len(path.parts), path))
    found = next((path.parent for path in every if path.name in _MODEL or is_gguf(path.name)), None)
    if found is None:
        where = f" at {inside}" if inside else ""
        raise ModelNotFound(f"The image's layers hold neither a config.json nor a GGUF file{where}.")
    return found
