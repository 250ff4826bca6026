"""Layers: tar files that come out byte for byte the same for the same content."""

import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def write_layer(out: Path, folder: Path, at: str = "", skip: Iterable[str] = ()) -> None:
    """Write what `folder` holds to the tar file `out`, as the content of the image's folder `at`.

    Owners are root and times are zero. `skip` are patterns of paths below `folder` that are left out, with
    all that is in them.
    """
    skipped = {path for pattern in skip for path in folder.glob(pattern)}
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as tar:
        for parent in reversed(PurePosixPath(at).parents[:-1] if at else ()):
            tar.addfile(_folder(str(parent)))
        if at:
            tar.addfile(_folder(at))
        for path in sorted(folder.rglob("*")):
            if skipped.isdisjoint((path, *path.parents)):
                _add(tar, path, str(PurePosixPath(at) / path.relative_to(folder).as_posix()))


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    info = tar.gettarinfo(path, name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    if info.islnk():  # the same file under another name: layers of wheels installed by hard links stay whole
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
    if info.isreg():
        with path.open("rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info
