"""Folders of safetensors files, one or many with an index; only the wanted slices are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from octavo_engine.errors import ModelError, ModelNotFound
from octavo_engine.runner.weights.slots import Shard

_INDEX = "model.safetensors.index.json"


class SafetensorsSource:
    """A checkpoint folder. Files are memory-mapped, so that reading a shard touches only its own bytes."""

    def __init__(self, folder: Path) -> None:
        files = [_open(path) for path in _files(folder)]
        self._file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        file = self._file_of[name]
        if shard is None:
            whole: Tensor = file.get_tensor(name)
            return whole
        wanted = slice(shard.start, shard.start + shard.length)
        part: Tensor = file.get_slice(name)[wanted] if dim == 0 else file.get_slice(name)[:, wanted]
        return part


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise ModelNotFound(
                f"{folder} holds no .safetensors file; name a folder with weights or a .gguf file."
            )
        return found
    try:
        files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is not a sound index of safetensors files: {error!r}.") from error
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelNotFound(
            f"{index} names files that are missing: {', '.join(missing)}; download them again."
        )
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a sound safetensors file: {error}.") from error
