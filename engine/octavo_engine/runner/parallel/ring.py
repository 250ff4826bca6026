"""Messages from one writer to several readers of one node, through shared memory.

    page 0   u32 how often something was written (what readers wait for) | u64 bytes written so far
             at 64 * (1 + i): u64 bytes that reader i has read
    then     a ring of bytes: pieces of [u32 length | u32 whether more of the message follows | bytes]

Each number has one writer. A message longer than the ring goes in pieces.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import tempfile
import threading
import time
from pathlib import Path

from octavo_engine.errors import EngineError
from octavo_engine.runner.parallel import futex

_CAPACITY = 8 << 20  # bytes
_PAGE = 4096
_LINE = 64
_HEAD = struct.Struct("<II")
_NUMBER = struct.Struct("<Q")
_MOST_READERS = _PAGE // _LINE - 1
_FULL_SLEEP = 100e-6
_FOLDER = Path("/dev/shm")


class _Ring:
    def __init__(self, file: int, capacity: int) -> None:
        self._memory = mmap.mmap(file, _PAGE + capacity)
        self._capacity = capacity
        self._word = ctypes.c_uint32.from_buffer(self._memory)
        self._order = threading.Lock()

    def _number(self, place: int) -> int:
        value: int = _NUMBER.unpack_from(self._memory, place)[0]
        return value

    def _set_number(self, place: int, value: int) -> None:
        with self._order:  # orders the stores before it where a processor would not
            pass
        _NUMBER.pack_into(self._memory, place, value)

    def _put(self, at: int, data: bytes | memoryview) -> None:
        start = at % self._capacity
        first = min(len(data), self._capacity - start)
        self._memory[_PAGE + start : _PAGE + start + first] = data[:first]
        self._memory[_PAGE : _PAGE + len(data) - first] = data[first:]

    def _take(self, at: int, length: int) -> bytes:
        start = at % self._capacity
        first = min(length, self._capacity - start)
        return (
            self._memory[_PAGE + start : _PAGE + start + first] + self._memory[_PAGE : _PAGE + length - first]
        )


class RingWriter(_Ring):
    """``path`` names the memory to readers; it may be unlinked when all of them have it open."""

    def __init__(self, readers: int, capacity: int = _CAPACITY) -> None:
        if readers > _MOST_READERS:
            raise EngineError(
                f"{readers} ranks of one node are more than the {_MOST_READERS} that are served."
            )
        handle, name = tempfile.mkstemp(prefix="octavo-ring-", dir=_FOLDER if _FOLDER.is_dir() else None)
        self.path = Path(name)
        os.ftruncate(handle, _PAGE + capacity)
        super().__init__(handle, capacity)
        os.close(handle)
        self._readers = readers
        self._written = 0

    def unlink(self) -> None:
        self.path.unlink(missing_ok=True)

    def send(self, message: bytes, patience: float = 60.0) -> None:
        """To every reader. Errors: EngineError when one of them reads nothing for ``patience`` seconds."""
        most = self._capacity // 2
        pieces = [memoryview(message)[i : i + most] for i in range(0, len(message), most)] or [
            memoryview(b"")
        ]
        for i, piece in enumerate(pieces):
            self._wait_for_room(_HEAD.size + len(piece), patience)
            self._put(self._written, _HEAD.pack(len(piece), i + 1 < len(pieces)))
            self._put(self._written + _HEAD.size, piece)
            self._written += _HEAD.size + len(piece)
            self._set_number(8, self._written)
            self._word.value = (self._word.value + 1) & 0xFFFFFFFF
            futex.wake(self._word)

    def _wait_for_room(self, size: int, patience: float) -> None:
        deadline = time.monotonic() + patience
        while self._written + size - self._slowest() > self._capacity:
            if time.monotonic() > deadline:
                raise EngineError(f"A rank has read no step for {patience:.0f} seconds.")
            time.sleep(_FULL_SLEEP)

    def _slowest(self) -> int:
        return min((self._number(_LINE * (1 + i)) for i in range(self._readers)), default=self._written)


class RingReader(_Ring):
    def __init__(self, path: str, reader: int, capacity: int = _CAPACITY) -> None:
        handle = os.open(path, os.O_RDWR)
        super().__init__(handle, capacity)
        os.close(handle)
        self._place = _LINE * (1 + reader)
        self._read = 0
        self._parts: list[bytes] = []

    def receive(self, seconds: float) -> bytes | None:
        """The next message; None when none has come within ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self._word.value
            while self._number(8) > self._read:
                if self._take_piece():
                    message, self._parts = b"".join(self._parts), []
                    return message
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            futex.wait(self._word, seen, left)

    def _take_piece(self) -> bool:
        """Whether the message is complete with it."""
        length, more = _HEAD.unpack(self._take(self._read, _HEAD.size))
        self._parts.append(self._take(self._read + _HEAD.size, length))
        self._read += _HEAD.size + length
        self._set_number(self._place, self._read)
        return not more
