"""The header of a GGUF file: its key-value pairs and where its tensors lie.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
Only the header is touched, so a file of many gigabytes opens in milliseconds.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from octavo_engine.errors import ModelError

_STRING, _ARRAY, _UINT64 = 8, 9, 10
_ALIGNMENT = 32  # of the tensors, where the file does not say
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64, _COUNTS = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQQ")


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4  # behind the magic

    def counts(self) -> tuple[int, int, int]:
        """(version, tensors, key-value pairs)"""
        found: tuple[int, int, int] = _COUNTS.unpack_from(self._data, self._at)
        self._at += _COUNTS.size
        return found

    def string(self) -> str:
        (length,) = _U64.unpack_from(self._data, self._at)
        start = self._at + 8
        self._at = start + length
        if self._at > len(self._data):
            raise struct.error("a string reaches beyond the end")
        return self._data[start : self._at].decode("utf-8", "replace")

    def uint32(self) -> int:
        (value,) = _U32.unpack_from(self._data, self._at)
        self._at += 4
        return int(value)

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self._scalars(kind, 1)[0]

    def tensor(self) -> TensorInfo:
        """A tensor's place; its offset is still relative to the end of the header."""
        name = self.string()
        shape = self._scalars(_UINT64, self.uint32())
        kind = self.uint32()
        return TensorInfo(name, tuple(reversed(shape)), kind, self._scalars(_UINT64, 1)[0])

    def aligned(self, alignment: int) -> int:
        """The position, rounded up to ``alignment`` bytes."""
        return -(-self._at // alignment) * alignment

    def _array(self) -> list[Any]:
        kind = self.uint32()
        (count,) = _U64.unpack_from(self._data, self._at)
        self._at += 8
        if kind in (_STRING, _ARRAY):
            return [self.value(kind) for _ in range(count)]
        return list(self._scalars(kind, count))

    def _scalars(self, kind: int, count: int) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{_SCALARS[kind]}")
        values = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return values


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: ``shape`` outermost first, ``kind`` of ggml_type, ``offset`` in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    metadata: dict[str, Any]
    tensors: list[TensorInfo]


def read_gguf_header(path: Path) -> dict[str, Any]:
    """All key-value pairs of the file's header, arrays as lists. Errors: as :func:`read_gguf`."""
    return read_gguf(path).metadata


def read_gguf(path: Path) -> GGUFHeader:
    """The header's key-value pairs and the places of the tensors.

    Errors: :class:`ModelError` when the file is no GGUF file or ends inside its header.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(data), path)


def _read(cursor: _Cursor, path: Path) -> GGUFHeader:
    try:
        version, tensors, pairs = cursor.counts()
        if version not in (2, 3):
            raise ModelError(f"{path} is GGUF version {version}; versions 2 and 3 can be read.")
        metadata = {cursor.string(): cursor.value(cursor.uint32()) for _ in range(pairs)}
        found = [cursor.tensor() for _ in range(tensors)]
    except (struct.error, KeyError, MemoryError) as error:
        raise ModelError(
            f"{path} is damaged: its header ends too early or is malformed ({error})."
        ) from error
    start = cursor.aligned(int(metadata.get("general.alignment", _ALIGNMENT)))
    return GGUFHeader(metadata, [replace(tensor, offset=start + tensor.offset) for tensor in found])
