"""Streams that begin at a steady rate, whatever becomes of those before them; every one is counted."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

End = Literal["unfinished", "complete", "error event", "broken", "refused"]
PROMPTS = 8
CONNECTS = 10
CONNECT_PAUSE = 0.5  # seconds
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)


@dataclass
class Outcome:
    """What became of one stream; times in Unix seconds.

    `error event`: it was told that it failed. `broken`: it was not, its connection ended.
    """

    number: int
    began: float
    ended: float = 0.0
    end: End = "unfinished"
    detail: str = ""
    text: str = ""
    tokens: int = 0
    reason: str | None = None
    refused_connections: int = 0

    @property
    def id(self) -> str:
        """Its X-Request-Id."""
        return f"stream-{self.number}"

    @property
    def prompt(self) -> str:
        """What is asked; one of a few, so that answers to the same one can be compared."""
        return f"Count up from {self.number % PROMPTS}."

    def take(self, event: dict[str, Any]) -> None:
        """Add an event of the stream."""
        if "error" in event:
            self.end, self.detail = "error event", str(event["error"])
        for choice in event.get("choices", []):
            self.text += choice["delta"].get("content") or ""
            self.reason = choice.get("finish_reason") or self.reason
        self.tokens = (event.get("usage") or {}).get("completion_tokens", self.tokens)


@dataclass(frozen=True)
class Load:
    """What is asked for: `rate` streams a second, each of `tokens` tokens."""

    url: str
    model: str
    tokens: int
    rate: float


@dataclass
class OpenLoop:
    """The streams so far."""

    load: Load
    outcomes: list[Outcome] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def running(self) -> int:
        """How many have begun to answer and are not over."""
        return sum(1 for outcome in self.outcomes if outcome.text and outcome.end == "unfinished")

    async def run(self) -> None:
        """Begin streams until it is over, and read all of them to their ends."""
        clock = asyncio.get_running_loop().time
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # a connection a stream
        async with (
            aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session,
            asyncio.TaskGroup() as streams,
        ):
            started = clock()
            while not self.over.is_set():
                outcome = Outcome(len(self.outcomes), time.time())
                self.outcomes.append(outcome)
                streams.create_task(self._stream(session, outcome))
                await asyncio.sleep(max(0.0, started + len(self.outcomes) / self.load.rate - clock()))

    async def _stream(self, session: aiohttp.ClientSession, outcome: Outcome) -> None:
        """One stream; a refused connection is tried again, as OpenAI's clients do: nothing was sent."""
        try:
            while True:
                try:
                    await self._read(session, outcome)
                    break
                except aiohttp.ClientConnectorError:
                    outcome.refused_connections += 1
                    if outcome.refused_connections == CONNECTS:
                        raise
                    await asyncio.sleep(CONNECT_PAUSE)
        except (aiohttp.ClientError, TimeoutError) as error:
            if outcome.end == "unfinished":
                outcome.end, outcome.detail = "broken", repr(error)
        finally:
            outcome.ended = time.time()

    async def _read(self, session: aiohttp.ClientSession, outcome: Outcome) -> None:
        headers = {"x-request-id": outcome.id}
        url = f"{self.load.url}/v1/chat/completions"
        async with session.post(url, json=self._body(outcome), headers=headers) as response:
            if response.status != 200:
                outcome.end, outcome.detail = "refused", f"{response.status}: {await response.text()}"
                return
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    whole = outcome.tokens == self.load.tokens and outcome.reason == "length"
                    outcome.end = "complete" if whole else "broken"
                    outcome.detail = "" if whole else f"a clean end after {outcome.tokens} tokens"
                elif line.startswith(b"data: "):
                    outcome.take(json.loads(line[6:]))
        if outcome.end == "unfinished":
            outcome.end, outcome.detail = "broken", "a clean end without [DONE]"

    def _body(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "model": self.load.model,
            "messages": [{"role": "user", "content": outcome.prompt}],
            "max_tokens": self.load.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@contextmanager
def open_loop(load: Load) -> Iterator[OpenLoop]:
    """Streams while the block runs; at its end all that were begun are read to their ends."""
    streams = OpenLoop(load)
    thread = threading.Thread(target=lambda: asyncio.run(streams.run()), name="open loop")
    thread.start()
    try:
        yield streams
    finally:
        streams.over.set()
        thread.join()
