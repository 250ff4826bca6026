"""``octavo-engine chat``: a conversation in the terminal, with a running server or with one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from octavo_engine.client import exchange, get_json
from octavo_engine.errors import EngineError

Message = dict[str, str]


class Conversation:
    """The messages so far, and what is asked for each answer."""

    def __init__(
        self, base_url: str, model: str, settings: dict[str, Any], api_key: str | None = None
    ) -> None:
        """``settings``: sampling parameters that go into every request."""
        self.messages: list[Message] = []
        self._base_url = base_url
        self._model = model
        self._settings = settings
        self._api_key = api_key

    async def ask(self, text: str) -> AsyncIterator[str]:
        """The answer's text as it comes; question and answer join the messages once it is complete.

        Errors: :class:`EngineError` with the server's sentence.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        body = {"model": self._model, "messages": messages, "stream": True, **self._settings}
        answer = []
        async with exchange(self._base_url, "/v1/chat/completions", body, self._api_key) as reply:
            async for event in reply.events():
                for choice in event["choices"]:
                    answer.append(choice["delta"].get("content") or "")
                    yield answer[-1]
        self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]


async def first_model(base_url: str, api_key: str | None) -> str:
    """The first model that the server serves."""
    models = await get_json(base_url, "/v1/models", api_key)
    return str(models["data"][0]["id"])


async def converse(
    conversation: Conversation, read: Callable[[], str | None], write: Callable[[str], None]
) -> None:
    """Ask what ``read`` returns until it returns None. ``/clear`` forgets everything, ``/exit`` ends."""
    while (text := await asyncio.to_thread(read)) is not None and text.strip() != "/exit":
        if text.strip() == "/clear":
            conversation.messages = []
        elif text.strip():
            async for piece in conversation.ask(text):
                write(piece)
            write("\n")


@contextlib.contextmanager
def own_server(model: str, port: int) -> Iterator[str]:
    """A server of this conversation's own, ended with it; yields its address."""
    command = [sys.executable, "-m", "octavo_engine", "serve", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command)
    try:
        asyncio.run(_until_ready(f"http://127.0.0.1:{port}", process))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _until_ready(base_url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(EngineError):
            async with exchange(base_url, "/health") as reply:
                if reply.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise EngineError("The server ended before it could answer; its last line above says why.")
