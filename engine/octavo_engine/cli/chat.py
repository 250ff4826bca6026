"""The flags of ``octavo-engine chat``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys

from octavo_engine.chat import Conversation, converse, first_model, own_server

_PROMPT = "> "


def add_chat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    parser.add_argument("--model", default=None, help="start a server of this model instead of asking --url")
    parser.add_argument("--served-model-name", default=None, help="default: the server's first model")
    parser.add_argument("--api-key", default=os.environ.get("OCTAVO_API_KEY"))
    parser.add_argument("--system-prompt", default=None, help="how the model shall behave")
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--max-tokens", type=int, default=None, help="of one answer")


def run_chat(arguments: argparse.Namespace) -> None:
    """Talk until the input ends. Errors: :class:`EngineError`."""
    with contextlib.ExitStack() as stack:
        url = arguments.url
        if arguments.model is not None:
            url = stack.enter_context(own_server(arguments.model, _free_port()))
        asyncio.run(_talk(url, arguments))


async def _talk(url: str, arguments: argparse.Namespace) -> None:
    model = arguments.served_model_name or await first_model(url, arguments.api_key)
    asked = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    settings = {name: value for name, value in asked.items() if value is not None}
    conversation = Conversation(url, model, settings, arguments.api_key)
    if arguments.system_prompt is not None:
        conversation.messages.append({"role": "system", "content": arguments.system_prompt})
    if sys.stdin.isatty():
        _write(f"Talking to {model}; /clear forgets, /exit or ctrl-D ends.\n")
    await converse(conversation, _read, _write)


def _read() -> str | None:
    try:
        return input(_PROMPT if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
