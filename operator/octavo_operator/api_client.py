"""HTTP to the API server: requests and watches, JSON in and out, errors as the tree of errors.py."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from octavo_operator.errors import ApiError, UnreachableError, from_status
from octavo_operator.telemetry import Telemetry

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"
TIMEOUT = aiohttp.ClientTimeout(total=30)
CONNECTIONS = 64
UNLIMITED = 0  # to aiohttp


class Access(msgspec.Struct, frozen=True):
    """Where the API server is. `headers` is called for each request, since tokens are renewed on disk."""

    server: str
    tls: ssl.SSLContext | bool
    headers: Callable[[], Mapping[str, str]]


class _Said(msgspec.Struct):
    reason: str = ""
    message: str = ""


class ApiClient:
    """Requests to one API server, and watches, which keep a connection each and share none with requests."""

    def __init__(self, access: Access, telemetry: Telemetry) -> None:
        self._access = access
        self._telemetry = telemetry
        self._requests: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "ApiClient":
        self._requests, self._watches = self._session(CONNECTIONS), self._session(UNLIMITED)
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (self._requests, self._watches):
            if session:
                await session.close()

    def _session(self, limit: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._access.tls, limit=limit)
        return aiohttp.ClientSession(self._access.server, connector=connector, timeout=TIMEOUT)

    async def request(
        self,
        verb: str,
        path: str,
        *,
        kind: str,
        body: Any = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body of a successful answer.

        Raises:
            ApiError: any other answer, or none.
        """
        data = None if body is None else msgspec.json.encode(body)
        headers = {**self._access.headers(), "Content-Type": content_type, "Accept": JSON}
        session = _opened(self._requests)
        try:
            async with session.request(verb, path, data=data, params=query, headers=headers) as answer:
                content = await answer.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            self._telemetry.requests.labels(verb, kind, "none").inc()
            raise UnreachableError(0, "NoAnswer", f"no answer from the API server: {error!r}") from error
        self._telemetry.requests.labels(verb, kind, str(answer.status)).inc()
        if answer.status >= 400:
            raise _error(answer.status, content)
        return content

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch; yield its lines. More than `silence` seconds without a byte end it."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        headers = {**self._access.headers(), "Accept": JSON}
        session = _opened(self._watches)
        try:
            async with session.get(path, params=query, headers=headers, timeout=timeout) as answer:
                if answer.status >= 400:
                    raise _error(answer.status, await answer.read())
                yield split_lines(answer.content.iter_any())
        except (TimeoutError, aiohttp.ClientError, asyncio.IncompleteReadError) as error:
            raise UnreachableError(0, "NoAnswer", f"the watch of {path} broke: {error!r}") from error


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own reader limits them."""
    rest: list[bytes] = []
    async for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line))
            rest.clear()
        rest.append(last)


def _opened(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if session is None:
        raise RuntimeError("the client is used as an async context manager")
    return session


def _error(status: int, content: bytes) -> ApiError:
    try:
        said = msgspec.json.decode(content, type=_Said)
    except msgspec.MsgspecError:
        said = _Said(message=content.decode(errors="replace").strip())
    return from_status(status, said.reason, said.message or f"the API server answered {status}")
