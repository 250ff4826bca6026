"""OCI image archives without registry, builder or daemon (OCI Image Format Specification 1.1)."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA_TYPE = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """One uncompressed layer: a tar file and the SHA-256 of its content, in hex."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Layer":
        """The layer in the tar file `path`, which is read once for its digest."""
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())

    @property
    def descriptor(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return _descriptor("layer.v1.tar", self.sha256, self.path.stat().st_size)


def write_archive(out: Path, name: str, layers: Sequence[Layer], config: Mapping[str, Any]) -> None:
    """Write an image called `name` to the tar file `out`.

    `config` is the part of the image's configuration that says how it runs: Entrypoint, User, Env.
    """
    described = [layer.descriptor for layer in layers]
    image = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in described]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA_TYPE}.manifest.v1+json",
            "config": _described("config.v1+json", image),
            "layers": described,
        }
    )
    entry = _described("manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    with tarfile.open(out, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (image, manifest):
            _add(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        for layer in {layer.sha256: layer for layer in layers}.values():
            _add_file(archive, f"blobs/sha256/{layer.sha256}", layer.path)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _described(kind: str, blob: bytes) -> dict[str, Any]:
    return _descriptor(kind, hashlib.sha256(blob).hexdigest(), len(blob))


def _descriptor(kind: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA_TYPE}.{kind}", "digest": f"sha256:{sha256}", "size": size}


def _add(archive: tarfile.TarFile, name: str, blob: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(blob)
    archive.addfile(info, io.BytesIO(blob))


def _add_file(archive: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(info, file)
