"""Requests that go on while a case changes the cluster under them."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
from e2e.waiting import wait_for

GAP_SECONDS = 0.2
QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Count to ten."}]


def ask(client: openai.OpenAI, model: str, tokens: int = 4) -> str:
    """A short answer of `model`.

    Raises:
        openai.OpenAIError: it was refused, or broke off.
    """
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=tokens, temperature=0)
    return answer.choices[0].message.content or ""


def tokens_in(seconds: float, client: openai.OpenAI, model: str) -> int:
    """About how many tokens of one stream `model` makes in so many seconds on this machine."""
    started = time.monotonic()
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=64, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    return int(seconds * answer.usage.completion_tokens / (time.monotonic() - started))


@dataclass
class Traffic:
    """What became of the requests so far."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, client: openai.OpenAI, model: str, over: threading.Event) -> None:
        """Ask again and again, until it is over."""
        while not over.wait(GAP_SECONDS):
            try:
                ask(client, model)
                self.answers += 1
            except openai.OpenAIError as error:
                self.failures.append(str(error))


@contextmanager
def steady_traffic(client: openai.OpenAI, model: str) -> Iterator[Traffic]:
    """Short requests, one after another, while the block runs; at its end none may have failed."""
    traffic, over = Traffic(), threading.Event()
    thread = threading.Thread(target=traffic.run, args=(client, model, over), name="traffic")
    thread.start()
    try:
        yield traffic
    finally:
        over.set()
        thread.join()
    assert not traffic.failures, f"{len(traffic.failures)} failed, such as: {traffic.failures[0]}"
    assert traffic.answers, "no request was answered"


@dataclass
class Stream:
    """A streamed answer that is being read."""

    pieces: int = 0
    reason: str | None = None
    over: bool = False

    def read(self, chunks: openai.Stream[Any]) -> None:
        """Read to the end.

        Raises:
            openai.OpenAIError: the stream broke off.
        """
        try:
            for chunk in chunks:
                for choice in chunk.choices:
                    self.pieces += bool(choice.delta.content)
                    self.reason = choice.finish_reason or self.reason
        finally:
            self.over = True


@contextmanager
def open_stream(client: openai.OpenAI, model: str, tokens: int) -> Iterator[Stream]:
    """A stream of exactly so many tokens, begun before the block and read to its end; it may not break."""
    stream = Stream()
    with ThreadPoolExecutor(1) as pool:
        chunks = client.chat.completions.create(
            model=model,
            messages=QUESTION,
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        reading = pool.submit(stream.read, chunks)
        wait_for("the first token", lambda: stream.pieces or stream.over)
        yield stream
        reading.result()
    assert stream.reason == "length", f"the stream ended with {stream.reason} after {stream.pieces} pieces"


@contextmanager
def burst(client: openai.OpenAI, model: str, clients: int) -> Iterator[None]:
    """Many clients that ask without end while the block runs, more than pods can take at once."""
    over = False

    def ask_on() -> None:
        while not over:
            stream = client.chat.completions.create(
                model=model,
                messages=QUESTION,
                max_tokens=64,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            with stream:
                for _ in stream:
                    if over:
                        break

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask_on) for _ in range(clients)]
        try:
            yield
        finally:
            over = True
    for each in asking:
        each.result()
