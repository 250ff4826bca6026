"""The ASGI response to a generation: begins it, sends it, and ends it the moment the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo_engine.errors import EngineError, RequestError
from octavo_engine.server.errors import error_body, error_response
from octavo_engine.server.generation import Generation
from octavo_engine.server.serving import Serving

_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies must not collect chunks
]
_log = logging.getLogger(__name__)


class Job(Protocol):
    """A checked request that can put its generation into words."""

    def chunks(self, generation: Generation) -> AsyncGenerator[bytes, None]: ...
    async def answer(self, generation: Generation) -> bytes: ...


Begin = Callable[[], Awaitable[tuple[Job, Generation]]]


class Answer(Response):
    """Answers one generation request, streamed or whole.

    A stream's head goes out with its first chunk: an error before that is an ordinary HTTP error, which a
    router may retry on another pod. An error later is an ``error`` event; no text and no ``[DONE]`` follow.
    """

    def __init__(self, serving: Serving, begin: Begin, *, stream: bool) -> None:
        super().__init__()
        self._serving = serving
        self._begin = begin
        self._stream = stream
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._generate(scope, receive, send)
        except Exception as error:
            told = _told(error)
            if self._started:
                event = b"event: error\ndata: " + error_body(told) + b"\n\n"
                await send({"type": "http.response.body", "body": event})
            else:
                await error_response(told)(scope, receive, send)

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._serving.request():
            job, generation = await self._begin()
            with generation:
                if self._stream:
                    await self._send_events(job.chunks(generation), send)
                else:
                    body = await job.answer(generation)
                    await Response(body, media_type="application/json")(scope, receive, send)

    async def _send_events(self, chunks: AsyncGenerator[bytes, None], send: Send) -> None:
        async for chunk in chunks:
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, cancelled when the client leaves. The request's body must have been read before."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_cancel_on_disconnect(receive, task))
    try:
        await task
    except asyncio.CancelledError:
        if not watcher.done():
            task.cancel()  # the server itself is being cancelled
            raise
    finally:
        watcher.cancel()


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Future[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _told(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    _log.error("A request failed.", exc_info=error)
    sentence = f"The server failed while answering ({type(error).__name__})."
    return RequestError(sentence, status=500, kind="server_error")
