"""The API process from its first breath to its last: bind, load, serve, drain, exit.

bind ── spawn core ── listen (503 loading) ── ready (200) ── SIGTERM: drain (503) ── core ends ── exit 0
                              └── core dies: every stream gets an error, 503, one sentence, exit 1 or 2
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn

from octavo_engine.core_client import CoreClient, CoreProcess
from octavo_engine.errors import ConfigError, EngineError
from octavo_engine.server.app import create_app
from octavo_engine.server.errors import unavailable
from octavo_engine.server.options import ServerOptions
from octavo_engine.server.serving import Serving
from octavo_engine.tokenizer import Tokenizer, load_tokenizer

_log = logging.getLogger(__name__)
_LAST_WORDS_SECONDS = 2.0  # for connections to read their error after the core has died
_ENDING_SECONDS = 2.0  # of the drain's time, kept for telling clients and ending the core


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(options: ServerOptions, process: CoreProcess, listener: socket.socket) -> None:
    """Serve until told to end. Errors: :class:`EngineError` when the core or the tokenizer cannot go on."""
    core = CoreClient(process)
    serving = Serving(options, core)
    server = _Server(_uvicorn_config(serving, options))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _on_signal, serving, server)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _on_signal, serving, server)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    load = asyncio.create_task(_load(serving, options, listener))
    try:
        await _until_over(serving, http, load)
    finally:
        load.cancel()
        server.should_exit = True
        await http
        await core.close()
        serving.close()


async def _until_over(serving: Serving, http: asyncio.Task[None], load: asyncio.Task[None]) -> None:
    ends: list[asyncio.Future[Any]] = [http, serving.core.died]
    await asyncio.wait([*ends, load], return_when=asyncio.FIRST_COMPLETED)
    if load.done():
        load.result()
        gc.collect()
        gc.freeze()  # what start-up made lives for ever; collections need not walk it
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if serving.stopped:
        raise EngineError("Stopped at once: running requests were not finished.")
    if serving.core.died.done():
        raise serving.core.died.result()


async def _load(serving: Serving, options: ServerOptions, listener: socket.socket) -> None:
    """The tokenizer loads while the core does."""
    serving.set_tokenizer(await asyncio.to_thread(_tokenizer, options))
    ready = await serving.core.ready
    host, port = listener.getsockname()[:2]
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
        raise ConfigError(f"--chat-template {options.chat_template} cannot be read: {error}.") from error


def _on_signal(serving: Serving, server: _Server) -> None:
    """The first signal drains, the second ends at once."""
    if serving.draining is not None:
        server.force_exit = server.should_exit = True
        serving.stopped = True
        serving.core.process.popen.kill()
        return
    _log.info("Draining: %d running requests may finish, new ones are refused.", serving.active)
    serving.draining = asyncio.create_task(_drain(serving, server))


async def _drain(serving: Serving, server: _Server) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, serving.options.drain_timeout - _ENDING_SECONDS)):
            await serving.idle.wait()
    serving.core.fail_all(unavailable("The server is shutting down and this request did not finish in time."))
    server.should_exit = True


def _uvicorn_config(serving: Serving, options: ServerOptions) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(serving),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=int(_LAST_WORDS_SECONDS),
    )
