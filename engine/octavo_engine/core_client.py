"""An API process's end of the engine core: sends requests, hands outputs to who waits."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec
import zmq
import zmq.asyncio

from octavo_engine.core_link import CoreLink, CoreProcess
from octavo_engine.errors import CoreDied, EngineError
from octavo_engine.messages import (
    AbortClient,
    AbortRequests,
    AddRequest,
    CoreMessage,
    CoreRequest,
    EngineStats,
    Heartbeat,
    Ready,
    SequenceOutput,
    Shutdown,
    StepOutputs,
)

CoreState = Literal["loading", "ok", "hung", "dead"]
_SILENT_SECONDS = 20  # a core that lives beats once a second
_STOP_SECONDS = 1.0  # from Shutdown to SIGKILL


class CoreHealth(NamedTuple):
    state: CoreState
    message: str


class Mailbox:
    """The outputs of one HTTP request's sequences, in order. One task reads; the core's reader writes."""

    def __init__(self) -> None:
        self._outputs: list[SequenceOutput] = []
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def get(self) -> list[SequenceOutput]:
        """All outputs that came; waits for the first. Errors: :class:`EngineError` when none can come."""
        while not self._outputs:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        outputs, self._outputs = self._outputs, []
        return outputs

    def put(self, output: SequenceOutput) -> None:
        self._outputs.append(output)
        self._wake()

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class CoreClient:
    """Everything the API process knows of its core. All methods belong to the event loop's thread."""

    def __init__(self, link: CoreLink) -> None:
        """The core may still be loading; needs a running event loop."""
        self.link = link
        self.stats = EngineStats()
        self.died: asyncio.Future[CoreDied] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._sent_since_stats = 0
        self._mailboxes: dict[str, Mailbox] = {}
        self._beat = Heartbeat(0, 0.0, 0.0)
        self._beat_at = time.monotonic()
        self._fatal: str | None = None
        self._messages = zmq.asyncio.Socket.from_socket(link.messages)
        self._encoder = msgspec.msgpack.Encoder()
        self._tasks = [asyncio.create_task(self._read())]

    @property
    def in_flight(self) -> int:
        """Prompts whose answers are not complete."""
        return len(self._mailboxes)

    @property
    def waiting(self) -> int:
        """Prompts that must wait: those the core reported, and those sent since that find no free row."""
        free = max(0, self.link.config.scheduler.max_num_seqs - self.stats.num_running)
        return self.stats.num_waiting + max(0, self._sent_since_stats - free)

    @property
    def health(self) -> CoreHealth:
        """Whether the step loop is alive, by its last heartbeat."""
        if self.died.done():
            return CoreHealth("dead", str(self.died.result()))
        if self._fatal is not None:  # it has said why it ends, and is about to
            return CoreHealth("dead", self._fatal)
        if not self.ready.done():
            return CoreHealth("loading", "The model is loading.")
        stalled = max(self._beat.step_age, self._beat.loop_age) + time.monotonic() - self._beat_at
        if stalled > self.link.config.step_timeout:
            return CoreHealth("hung", f"The engine's step loop has not moved for {stalled:.0f} seconds.")
        return CoreHealth("ok", "The engine is serving.")

    @contextlib.contextmanager
    def submit(self, requests: Sequence[AddRequest]) -> Iterator[Mailbox]:
        """Send prompts to the core; on leaving, those that are not complete are aborted.

        Errors: :class:`CoreDied`.
        """
        if self.died.done():
            raise self.died.result()
        mailbox = Mailbox()
        for request in requests:
            self._mailboxes[request.request_id] = mailbox
            self._send(request)
        self._sent_since_stats += len(requests)
        try:
            yield mailbox
        finally:
            left = [request.request_id for request in requests if self.forget(request.request_id)]
            if left:
                self._send(AbortRequests(left))

    def forget(self, request_id: str) -> bool:
        """A prompt's answer is complete; whether it was still expected."""
        return self._mailboxes.pop(request_id, None) is not None

    def abort_sequence(self, request_id: str, index: int) -> None:
        """Free one sequence of a prompt; its other sequences go on, and the core forgets it with the last."""
        self._send(AbortRequests([], [(request_id, index)]))

    def fail_all(self, error: EngineError) -> None:
        """Whoever waits for an output gets ``error`` instead."""
        for mailbox in self._mailboxes.values():
            mailbox.fail(error)

    def lose(self, error: CoreDied) -> None:
        """The core is dead; whoever waits for it is told."""
        if not self.died.done():
            self.died.set_result(error)
            self.fail_all(error)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._messages.close()
        self.link.close()

    def _send(self, request: CoreRequest) -> None:
        with contextlib.suppress(zmq.Again):  # only when the core is dead, which _watch tells everyone
            self.link.requests.send(self._encoder.encode(request), zmq.NOBLOCK)

    async def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(CoreMessage)
        while True:
            self.take(decoder.decode(await self._messages.recv()))

    def take(self, message: CoreMessage) -> None:
        """A message of the core."""
        if isinstance(message, StepOutputs):
            self._deliver(message)
        elif isinstance(message, Heartbeat):
            self._beat, self._beat_at = message, time.monotonic()
        elif isinstance(message, Ready):
            self._beat_at = time.monotonic()
            if not self.ready.done():
                self.ready.set_result(message)
        else:
            self._fatal = message.message

    def _deliver(self, step: StepOutputs) -> None:
        self.stats, self._sent_since_stats = step.stats, 0
        for output in step.outputs:
            mailbox = self._mailboxes.get(output.request_id)
            if mailbox is not None:
                mailbox.put(output)


class OwnedCore(CoreClient):
    """The client in the process that started the core: it sees the core die, and ends it."""

    def __init__(self, process: CoreProcess) -> None:
        super().__init__(process.link)
        self.process = process
        self._tasks.append(asyncio.create_task(self._watch()))
        if process.link.config.parallel.world_size > 1:
            self._tasks.append(asyncio.create_task(self._end_if_silent()))

    def abort_client(self, client: int, incarnation: int) -> None:
        """Free whatever an API process that is gone had asked for."""
        self._send(AbortClient(client, incarnation))

    async def close(self) -> None:
        """End the process, by force when it does not listen."""
        if not self.died.done():
            self._send(Shutdown())
        await asyncio.wait({self.died}, timeout=_STOP_SECONDS if self.ready.done() else 0.0)
        self.process.popen.kill()
        await self.died
        await super().close()
        self.process.end(0.0)

    async def _watch(self) -> None:
        code = await asyncio.to_thread(self.process.popen.wait)
        await self._last_words()
        error = CoreDied(self._fatal or _death_sentence(code))
        error.exit_code = code if code in (1, 2) else 1
        self.lose(error)

    async def _end_if_silent(self) -> None:
        """Rank 0, which watches over the others, is the core itself: when it hangs all must end."""
        await self.ready
        silent, seen = 0, self._beat_at
        while silent < _SILENT_SECONDS:
            await asyncio.sleep(1.0)
            silent = silent + 1 if self._beat_at == seen else 0
            seen = self._beat_at
        self._fatal = f"The engine ended because rank 0 has not been heard of for {silent} seconds."
        self.process.popen.kill()

    async def _last_words(self) -> None:
        """A core that ends on its own terms has sent why before it ended; let the reader get to it."""
        for _ in range(20):
            if self._fatal is not None or self.process.popen.returncode <= 0:
                return
            await asyncio.sleep(0.01)


def _death_sentence(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "The engine core was killed (SIGKILL), most often because memory ran out; "
            "lower --max-model-len or the KV cache's size, or give it more memory."
        )
    if code < 0:
        return f"The engine core was ended by signal {signal.Signals(-code).name}."
    return f"The engine core ended by itself with exit code {code}."
