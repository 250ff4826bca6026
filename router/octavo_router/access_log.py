"""The access log: one JSON object a request, without a word of prompts or answers."""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

_MOST_LINES = 20_000  # held while the reader of the log does not keep up; more are dropped and counted
log = logging.getLogger("octavo.router.access")


class Entry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is told of one request. Times: `time` in Unix seconds, the others in milliseconds."""

    time: float
    id: str
    path: str = ""  # unknown of a head that did not come so far
    status: int
    duration_ms: float
    first_byte_ms: float | None = None
    model: str = ""
    deployment: str = ""
    pod: str = ""
    stream: bool = False
    tries: int = 0
    request_bytes: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    key: str = ""
    trace: str = ""


class AccessLog:
    """Gathers lines, and writes them in a thread: a full pipe must not hold up a stream."""

    def __init__(self, share: float, descriptor: int = 1) -> None:
        self._share = share
        self._descriptor = descriptor
        self._due = 0.0
        self._lines: list[bytes] = []
        self._dropped = 0
        self._writing: asyncio.Future[None] | None = None

    def wants(self) -> bool:
        """Whether the next request is one of the share that is logged: each, or evenly some."""
        self._due += self._share
        if self._due < 1:
            return False
        self._due -= 1
        return True

    def note(self, entry: Entry) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines.append(msgspec.json.encode(entry))
        else:
            self._dropped += 1

    def flush(self) -> None:
        """Begins to write what has been gathered, unless the former write goes on."""
        if self._lines and (self._writing is None or self._writing.done()):
            lines, self._lines = self._lines, []
            loop = asyncio.get_running_loop()
            self._writing = loop.run_in_executor(None, self._write, b"\n".join(lines) + b"\n")
        if self._dropped:
            log.warning("%d lines were dropped: what reads the access log is too slow", self._dropped)
            self._dropped = 0

    async def close(self) -> None:
        """Writes the rest."""
        if self._writing is not None:
            await self._writing
        self.flush()
        if self._writing is not None:
            await self._writing

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            log.warning("the access log cannot be written: %s", error)
