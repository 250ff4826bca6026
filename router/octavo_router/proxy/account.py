"""What is noted of one request for its API key and the access log. Where neither is on, there is none."""

from __future__ import annotations

import time

from octavo_router.access_log import AccessLog, Entry
from octavo_router.keys import Key
from octavo_router.proxy.heads import RequestHead
from octavo_router.usage import Usage, UsageTail

_SHOWN = 200  # characters of a name that a client made up


class Account:
    """Opened when a request is admitted, by its head or whole, fed with its response, closed with its end."""

    __slots__ = ("_began", "_entry", "_log", "_since", "_tail", "key", "trace_line")

    def __init__(self, log: AccessLog | None, entry: Entry, trace_line: bytes, now: float) -> None:
        self.key: Key | None = None
        self.trace_line = trace_line  # the header that begins a trace here; else empty
        self._log = log
        self._entry = entry
        self._tail = UsageTail()
        self._since = now
        self._began: float | None = None

    def belongs_to(self, key: Key) -> None:
        self.key = key
        self._entry.key = key.spec.name
        key.figures.requests += 1

    @property
    def request_id(self) -> bytes:
        return self._entry.id.encode()

    def since(self, then: float) -> None:
        """Times count from then: a request's last byte, or the first that was waited for in vain."""
        self._since = then

    @property
    def namespace(self) -> str | None:
        return self.key.spec.namespace if self.key is not None else None

    def asked(self, model: str, size: int, *, streams: bool) -> None:
        self._entry.model, self._entry.stream, self._entry.request_bytes = model[:_SHOWN], streams, size

    def first_byte(self, now: float) -> None:
        self._began = now

    def feed(self, body: bytes) -> None:
        self._tail.feed(body)

    def close(self, status: int, deployment: str, pod: str, tries: int, now: float) -> None:
        """The request has ended, one way or another."""
        entry = self._entry
        usage = self._usage(status)
        if self.key is not None and usage is not None:
            self.key.used(usage.prompt_tokens, usage.completion_tokens)
        if self._log is None:
            return
        entry.status, entry.deployment, entry.pod, entry.tries = status, deployment, pod, tries
        entry.duration_ms = round((now - self._since) * 1000, 3)
        if self._began is not None:
            entry.first_byte_ms = round((self._began - self._since) * 1000, 3)
        if usage is not None:
            entry.prompt_tokens, entry.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        self._log.note(entry)

    def _usage(self, status: int) -> Usage | None:
        if status != 200 or self._began is None:  # no pod has answered
            return None
        told = self._tail.read()
        if told is None:
            told = self._tail.guess(self._entry.request_bytes, streams=self._entry.stream)
            if self.key is not None:
                self.key.figures.guessed += 1
        return told


def entry_of(head: RequestHead, request_id: bytes, trace: bytes) -> Entry:
    """The line of a request, as far as it is known when it comes: the path without its query."""
    path = head.target.partition(b"?")[0][:_SHOWN].decode("latin-1")
    return Entry(
        time=time.time(),
        id=request_id.decode(),
        path=path,
        status=0,
        duration_ms=0.0,
        trace=trace.decode(),
    )
