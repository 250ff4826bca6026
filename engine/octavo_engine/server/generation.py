"""From the core's token ids to text: the choices of one HTTP request, as they grow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from octavo_engine.core_client import CoreClient
from octavo_engine.detokenizer import IncrementalDetokenizer
from octavo_engine.messages import AddRequest, SequenceOutput, TokenLogprobs
from octavo_engine.server.errors import failed
from octavo_engine.server.metrics import Metrics
from octavo_engine.tokenizer import Tokenizer


@dataclass(slots=True)
class Delta:
    """What one choice gained since the last delta; several tokens when several were ready."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(slots=True)
class _Choice:
    index: int
    detokenizer: IncrementalDetokenizer
    begun: bool = False
    finished: bool = False


class Generation:
    """The answers to a request's prompts: choice ``i * n + j`` is sequence ``j`` of prompt ``i``."""

    def __init__(
        self,
        core: CoreClient,
        tokenizer: Tokenizer,
        metrics: Metrics,
        requests: Sequence[AddRequest],
        arrived: float,
    ) -> None:
        """``arrived``: time.perf_counter() when the HTTP request came."""
        self._core = core
        self._requests = requests
        self._choices = _choices(tokenizer, requests)
        self._timing = metrics.request(arrived)
        self._running = contextlib.ExitStack()
        self.usage = Usage(prompt_tokens=sum(len(request.prompt_token_ids) for request in requests))

    def __enter__(self) -> Generation:
        """Send the prompts to the core. Errors: :class:`CoreDied`."""
        self._mailbox = self._running.enter_context(self._core.submit(self._requests))
        return self

    def __exit__(self, *failure: object) -> None:
        """Free whatever still runs."""
        self._running.close()

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """Batches of deltas until all choices have finished; inside ``with`` only.

        Errors: :class:`RequestError` when the core refuses a prompt, :class:`CoreDied`.
        """
        left = {request.request_id: request.params.n for request in self._requests}
        while left:
            outputs = await self._mailbox.get()
            self._timing.progress(time.perf_counter())
            deltas: dict[int, Delta] = {}
            for output in outputs:
                if self._collect(output, deltas):
                    left[output.request_id] -= 1
                    self._end(output.request_id, output.index, left)
            if deltas:
                yield list(deltas.values())
        self._timing.complete(time.perf_counter(), self.usage.completion_tokens, len(self._choices))

    def _collect(self, output: SequenceOutput, deltas: dict[int, Delta]) -> bool:
        """Add ``output`` to its choice's delta; whether the choice ended with it."""
        choice = self._choices[output.request_id, output.index]
        if choice.finished:
            return False  # on its way when a stop string ended the choice
        if output.error is not None:
            raise failed(output.error, output.error_status)
        delta = deltas.setdefault(choice.index, Delta(choice.index))
        _extend(delta, output, choice.detokenizer)
        choice.finished = delta.finish_reason is not None
        self.usage.completion_tokens += len(output.token_ids)
        if not choice.begun:
            choice.begun = True
            self._count_cached(output)
        return choice.finished

    def _count_cached(self, output: SequenceOutput) -> None:
        if output.index == 0:  # the sequences of a prompt share what was found of it
            self.usage.cached_tokens += max(0, output.num_cached_tokens)

    def _end(self, request_id: str, index: int, left: dict[str, int]) -> None:
        """A choice is complete; what the core has not ended itself is freed now, not with the last prompt."""
        if self._choices[request_id, index].detokenizer.stopped_by is not None:
            self._core.abort_sequence(request_id, index)
        if not left[request_id]:
            del left[request_id]
            self._core.forget(request_id)


def _extend(delta: Delta, output: SequenceOutput, detokenizer: IncrementalDetokenizer) -> None:
    delta.text += detokenizer.push(output.token_ids, output.stop_token_id)
    delta.token_ids += output.token_ids
    delta.logprobs += output.logprobs or []
    delta.prompt_logprobs = output.prompt_logprobs or delta.prompt_logprobs
    if detokenizer.stopped_by is None and output.finish_reason is not None:
        delta.text += detokenizer.finish()
        delta.finish_reason, delta.stop_reason = output.finish_reason, output.stop_token_id
    if detokenizer.stopped_by is not None:
        delta.finish_reason, delta.stop_reason = "stop", detokenizer.stopped_by


def _choices(tokenizer: Tokenizer, requests: Sequence[AddRequest]) -> dict[tuple[str, int], _Choice]:
    choices: dict[tuple[str, int], _Choice] = {}
    for request in requests:
        for index in range(request.params.n):
            detokenizer = IncrementalDetokenizer(tokenizer, request.params, request.prompt_token_ids)
            choices[request.request_id, index] = _Choice(len(choices), detokenizer)
    return choices
