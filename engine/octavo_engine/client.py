"""A small HTTP/1.1 client for the engine's own tools: JSON in, JSON or server-sent events out.

One connection a request; what it costs per chunk is little, so that a benchmark measures the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from octavo_engine.errors import EngineError

_LIMIT = 16 * 1024 * 1024  # bytes of one line


class Reply:
    """A response whose body has not been read yet."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self._headers = headers
        self._reader = reader

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes. Errors: :class:`EngineError` when it ends before its end."""
        try:
            if self._headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
            else:
                yield await self._reader.readexactly(int(self._headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EngineError("The server closed the connection before its answer was complete.") from error

    async def json(self) -> Any:
        """The whole body, decoded. Errors: :class:`EngineError` with the server's own words."""
        body = b"".join([part async for part in self.parts()])
        if self.status >= 400:
            raise EngineError(_error_sentence(self.status, body))
        return msgspec.json.decode(body)

    async def events(self) -> AsyncIterator[Any]:
        """The decoded data of a stream's events up to ``[DONE]``.

        Errors: :class:`EngineError` for an error answer, an error event, or an end without ``[DONE]``.
        """
        if self.status >= 400:
            await self.json()
        rest = b""
        async for part in self.parts():
            *events, rest = (rest + part).split(b"\n\n")
            for event in events:
                data = event.partition(b"data: ")[2]
                if data == b"[DONE]":
                    return
                yield _decoded(data)
        raise EngineError("The stream ended without [DONE]; the server may have stopped.")


@contextlib.asynccontextmanager
async def exchange(
    base_url: str, path: str, body: object = None, api_key: str | None = None
) -> AsyncIterator[Reply]:
    """One request: GET without ``body``, POST with it. Errors: :class:`EngineError` when nobody answers."""
    address = urlsplit(base_url)
    secure = address.scheme == "https"
    host, port = address.hostname or "127.0.0.1", address.port or (443 if secure else 80)
    try:
        reader, writer = await asyncio.open_connection(
            host, port, limit=_LIMIT, ssl=ssl.create_default_context() if secure else None
        )
    except OSError as error:
        reason = error.strerror or error
        raise EngineError(
            f"No server answers at {base_url} ({reason}); start one with octavo-engine serve."
        ) from error
    try:
        writer.write(_request(address.netloc, address.path.rstrip("/") + path, body, api_key))
        yield await _reply(reader)
    finally:
        writer.close()


async def get_json(base_url: str, path: str, api_key: str | None = None) -> Any:
    async with exchange(base_url, path, api_key=api_key) as reply:
        return await reply.json()


def _request(host: str, path: str, body: object, api_key: str | None) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode() + content


async def _reply(reader: asyncio.StreamReader) -> Reply:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, OSError) as error:
        raise EngineError("The server closed the connection without an answer.") from error
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(status.split()[1]), headers, reader)


def _decoded(data: bytes) -> Any:
    event = msgspec.json.decode(data)
    if isinstance(event, dict) and event.get("error"):
        raise EngineError(str(event["error"].get("message", event["error"])))
    return event


def _error_sentence(status: int, body: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
        return str(msgspec.json.decode(body)["error"]["message"])
    return f"The server answered with HTTP status {status}."
