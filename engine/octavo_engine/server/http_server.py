"""HTTP over one link to the core: loads the tokenizer, serves, drains."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn

from octavo_engine.core_client import CoreClient
from octavo_engine.errors import ConfigError
from octavo_engine.server.app import create_app
from octavo_engine.server.errors import unavailable
from octavo_engine.server.options import ServerOptions
from octavo_engine.server.serving import Serving
from octavo_engine.tokenizer import Tokenizer, load_tokenizer

_log = logging.getLogger(__name__)
_LAST_WORDS_SECONDS = 2.0  # for connections to read their error after the core has died
_ENDING_SECONDS = 2.0  # of the drain's time, kept for telling clients and ending the core


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handlers: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """Belongs to the event loop's thread. ``shared_metrics``: other processes count into the same metrics."""

    def __init__(
        self,
        options: ServerOptions,
        core: CoreClient,
        listener: socket.socket,
        *,
        shared_metrics: bool = False,
    ) -> None:
        self._options = options
        self._core = core
        self._listener = listener
        self._serving = Serving(options, core, shared_metrics=shared_metrics)
        self._uvicorn = _Uvicorn(_uvicorn_config(self._serving))

    @property
    def active(self) -> int:
        """HTTP requests whose answers are not complete."""
        return self._serving.active

    async def run(self) -> None:
        """Serve until stopped. Errors: :class:`EngineError` when the core or the tokenizer cannot go on."""
        http = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        load = asyncio.create_task(self._load())
        try:
            await self._until_over(http, load)
        finally:
            load.cancel()
            self.stop()
            await http
            self._serving.close()

    async def drain(self) -> None:
        """Refuse new requests and let running ones finish, for as long as the drain's time lasts."""
        self._serving.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._options.drain_timeout - _ENDING_SECONDS)):
                await self._serving.idle.wait()
        sentence = "The server is shutting down and this request did not finish in time."
        self._core.fail_all(unavailable(sentence))

    def stop(self) -> None:
        """Let :meth:`run` return once the last words are said."""
        self._uvicorn.should_exit = True

    def stop_at_once(self) -> None:
        self._uvicorn.force_exit = True
        self.stop()

    async def _until_over(self, http: asyncio.Task[None], load: asyncio.Task[None]) -> None:
        ends: list[asyncio.Future[Any]] = [http, self._core.died]
        await asyncio.wait([*ends, load], return_when=asyncio.FIRST_COMPLETED)
        if load.done():
            load.result()
            gc.collect()
            gc.freeze()  # what start-up made lives for ever; collections need not walk it
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._core.died.done():
            raise self._core.died.result()

    async def _load(self) -> None:
        """The tokenizer loads while the core does."""
        options = self._options
        self._serving.set_tokenizer(await asyncio.to_thread(_tokenizer, options))
        ready = await self._core.ready
        host, port = self._listener.getsockname()[:2]
        _log.info(
            "Serving %s on http://%s:%d (context %d tokens, %d KV blocks of %d, loaded in %.1f s).",
            ", ".join(options.model_names), host, port,
            ready.max_model_len, ready.num_blocks, ready.block_size, ready.load_seconds,
        )  # fmt: skip


def _tokenizer(options: ServerOptions) -> Tokenizer:
    tokenizer = load_tokenizer(options.tokenizer or options.engine.model.source)
    if options.chat_template is None:
        return tokenizer
    try:
        return tokenizer.with_chat_template(Path(options.chat_template).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--chat-template {options.chat_template} cannot be read: {reason}.") from error


def _uvicorn_config(serving: Serving) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(serving, serving.options.allowed_origins),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=int(_LAST_WORDS_SECONDS),
    )
