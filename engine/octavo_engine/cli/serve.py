"""``octavo-engine serve``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from octavo_engine.cli.flags import add_engine_flags, engine_config
from octavo_engine.cli.member import add_member_flags, run_member
from octavo_engine.core_link import CoreProcess
from octavo_engine.core_process import MODEL_RUNNER
from octavo_engine.errors import ConfigError
from octavo_engine.model_source import resolve
from octavo_engine.server.listener import bind, bind_shared
from octavo_engine.server.options import ServerOptions

_FROM_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MOST_WORKERS = 64
_log = logging.getLogger(__name__)


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    options = ServerOptions()
    parser.add_argument("model_tag", nargs="?", default=None, metavar="MODEL", help="the same as --model")
    group = parser.add_argument_group("server")
    group.add_argument("--host", default=options.host)
    group.add_argument("--port", type=int, default=options.port)
    group.add_argument(
        "--served-model-name",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="default: MODEL as given",
    )
    group.add_argument(
        "--api-key",
        default=os.environ.get("OCTAVO_API_KEY") or None,
        help="default: $OCTAVO_API_KEY; none: open to all",
    )
    group.add_argument(
        "--allowed-origins",
        type=_origins,
        default=options.allowed_origins,
        metavar="JSON",
        help="web pages whose browsers may ask, such as '[\"https://chat.example.com\"]'; default: none",
    )
    group.add_argument("--tokenizer", default=None, help="folder or file; default: the model's own")
    group.add_argument("--chat-template", default=None, metavar="FILE", help="default: the model's own")
    group.add_argument(
        "--generation-config",
        choices=("auto", "none"),
        default="auto",
        help="auto: where a request is silent, the model's generation_config.json counts",
    )
    group.add_argument(
        "--drain-timeout",
        type=float,
        default=options.drain_timeout,
        help="seconds for running requests on SIGTERM",
    )
    group.add_argument(
        "--api-workers",
        type=int,
        default=options.api_workers,
        metavar="N",
        help="processes that share the port and its HTTP work",
    )
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    group.add_argument("--runner", default=MODEL_RUNNER, help=argparse.SUPPRESS)  # module:class, for tests
    add_member_flags(parser)
    add_engine_flags(parser)


def _origins(text: str) -> tuple[str, ...]:
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except msgspec.DecodeError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a JSON list of origins, such as ["https://chat.example.com"]'
        ) from None


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    """Errors: :class:`ConfigError` naming the flag."""
    if arguments.model_tag is not None:
        if arguments.model not in (None, arguments.model_tag):
            raise ConfigError(
                f"Two models are named, {arguments.model_tag} and --model {arguments.model}; name one."
            )
        arguments.model = arguments.model_tag
    if not 0 <= arguments.port <= 65535:
        raise ConfigError(f"--port must be between 0 and 65535, not {arguments.port}.")
    if arguments.api_key == "":  # such as from a variable that is not set: it must not open the server
        raise ConfigError("--api-key is empty; give a key, or leave the flag out to let everybody in.")
    if not 1 <= arguments.api_workers <= _MOST_WORKERS:
        raise ConfigError(
            f"--api-workers must be between 1 and {_MOST_WORKERS}, not {arguments.api_workers}."
        )
    names = arguments.served_model_name or ([arguments.model] if arguments.model else [])
    engine = engine_config(arguments)
    resolve(engine.model.source)  # a source that leads nowhere is told before anything is started
    return ServerOptions(
        engine=engine,
        host=arguments.host,
        port=arguments.port,
        served_model_names=tuple(names),
        api_key=arguments.api_key,
        allowed_origins=arguments.allowed_origins,
        tokenizer=arguments.tokenizer,
        chat_template=arguments.chat_template,
        generation_defaults=_generation_defaults(arguments, engine.model.source),
        drain_timeout=arguments.drain_timeout,
        api_workers=arguments.api_workers,
    )


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM, or be another pod of a group. Errors: :class:`EngineError`."""
    if arguments.node_rank:
        run_member(arguments)
        return
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    run_server(server_options(arguments), arguments.runner)


def run_server(options: ServerOptions, runner: str) -> None:
    """Bind, start the core, and only then import what HTTP needs: the two load side by side.

    ``runner``: ``module:class`` of what the core drives. Errors: :class:`EngineError`.
    """
    several = options.api_workers > 1
    with contextlib.ExitStack() as open_sockets:
        listeners = _listeners(options)
        for listener in listeners:
            open_sockets.enter_context(contextlib.closing(listener))
        _log.info("Loading %s; port %d answers /health meanwhile.", options.engine.model.source, options.port)
        process = CoreProcess(options.engine, runner, options.api_workers if several else 0)
        try:
            _serve(options, process, listeners)
        finally:
            process.end(0.0)


def _listeners(options: ServerOptions) -> list[socket.socket]:
    if options.api_workers > 1:
        return bind_shared(options.host, options.port, options.api_workers)
    return [bind(options.host, options.port)]


def _serve(options: ServerOptions, process: CoreProcess, listeners: list[socket.socket]) -> None:
    from octavo_engine.server.event_loop import runner

    with runner() as loop:
        if len(listeners) > 1:
            from octavo_engine.server.supervisor import supervise

            loop.run(supervise(options, process, listeners))
        else:
            from octavo_engine.server.lifecycle import serve

            loop.run(serve(options, process, listeners[0]))


def _generation_defaults(arguments: argparse.Namespace, source: str) -> dict[str, Any]:
    if arguments.generation_config == "none":
        return {}
    file = resolve(source).folder / "generation_config.json"
    found = _read_json(file) if file.is_file() else {}
    defaults = {name: found[name] for name in _FROM_MODEL if found.get(name) is not None}
    if defaults:
        _log.info("Where requests are silent, %s counts: %s.", file.name, defaults)
    return defaults


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}.") from error
    return found
