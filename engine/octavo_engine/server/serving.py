"""The state that all handlers share: the core, the tokenizer once it is loaded, and who may still come in."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from octavo_engine.core_client import CoreClient, CoreHealth
from octavo_engine.errors import RequestError
from octavo_engine.messages import AddRequest, Ready
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.errors import unavailable
from octavo_engine.server.generation import Generation
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.options import ServerOptions
from octavo_engine.server.protocol import GenerationRequest
from octavo_engine.tokenizer import Tokenizer
from octavo_engine.validation import check_prompt, check_sampling_params, check_text

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens, and its text where someone may want it back."""

    token_ids: list[int]
    text: str | None = None


class Serving:
    """One server's shared state; belongs to the event loop's thread."""

    def __init__(self, options: ServerOptions, core: CoreClient, *, shared_metrics: bool = False) -> None:
        """``shared_metrics``: other processes serve the same port and count into the same metrics."""
        self.options = options
        self.core = core
        self.created = int(time.time())
        self.metrics = Metrics(options.model_names[0], lambda: core.stats, shared=shared_metrics)
        self.draining = False
        self.active = 0  # HTTP requests whose answers are not complete
        self.idle = asyncio.Event()
        self.idle.set()
        self._tokenizer: Tokenizer | None = None
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tokenize")

    @property
    def health(self) -> CoreHealth | tuple[str, str]:
        """(status, sentence) as `/health` tells them."""
        core = self.core.health
        if core.state in ("hung", "dead"):
            return core
        if self.draining:
            return (
                "draining",
                "The server is shutting down; running requests are finished, new ones refused.",
            )
        if core.state == "ok" and self._tokenizer is None:
            return ("loading", "The tokenizer is loading.")
        return core

    @property
    def ready(self) -> Ready:
        """What the core told of the loaded model. Errors: :class:`RequestError` 503 while it loads."""
        if not self.core.ready.done():
            raise _loading()
        return self.core.ready.result()

    @property
    def load(self) -> int:
        """Requests that run or wait here; the core's report may be a step old, what came since is counted."""
        stats = self.core.stats
        return max(self.active, stats.num_running + stats.num_waiting + stats.num_swapped)

    @property
    def tokenizer(self) -> Tokenizer:
        """Errors: :class:`RequestError` 503 while it loads."""
        if self._tokenizer is None:
            raise _loading()
        return self._tokenizer

    def set_tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as active, or refuse it. Errors: :class:`RequestError` 503."""
        status, message = self.health
        if status != "ok":
            raise unavailable(message)
        self.active += 1
        self.metrics.active.inc()
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            self.metrics.active.dec()
            if not self.active:
                self.idle.set()

    def check_model(self, name: str | None) -> str:
        """The name to answer with. Errors: :class:`RequestError` 404 for a model that is not served here."""
        names = self.options.model_names
        if name is None or name in names:
            return name or names[0]
        raise RequestError(
            f"The model {name!r} does not exist here; served are {', '.join(names)}.",
            status=404,
            kind="not_found_error",
            param="model",
            code="model_not_found",
        )

    def check_key(self, authorization: str | None) -> None:
        """Errors: :class:`RequestError` 401 when a key is set and the header does not carry it."""
        if self.options.api_key is None:
            return
        given = (authorization or "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.options.api_key.encode()):
            fault = "is missing" if authorization is None else "is wrong"
            raise RequestError(
                f"The API key {fault}; send the header Authorization: Bearer KEY.",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
            )

    def check_queue(self, prompts: int) -> None:
        """Errors: :class:`RequestError` 429 when the queue has no room for so many prompts more."""
        limit = self.options.engine.scheduler.max_waiting
        waiting = self.core.waiting
        if waiting >= limit or (prompts > 1 and waiting + prompts > limit + self._rows):
            raise RequestError(
                f"The queue is full: {waiting} requests wait and at most {limit} may; ask again in a second.",
                status=429,
                kind="rate_limit_error",
                code="queue_full",
                retry_after=1,
            )

    async def in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Tokenizing and templates run beside the event loop: a long prompt must not hold up the streams."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def encode(self, text: str, add_special_tokens: bool, room: int | None = None) -> Prompt:
        """``room``: tokens that the text must fit into; None: any text will do.

        Errors: :class:`RequestError`, before anything is tokenized: a text of megabytes would take minutes.
        """
        self.check_text(text, room)
        return Prompt(await self.in_thread(self.tokenizer.encode, text, add_special_tokens), text)

    def check_text(self, text: str, room: int | None) -> None:
        """Errors: :class:`RequestError` for a text of more than ``room`` tokens, however it is tokenized."""
        if room is not None:
            check_text(text, self.tokenizer.fewest_tokens(text), room)

    def generation(
        self,
        request: GenerationRequest,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        request_id: str,
        arrived: float,
        asked_tokens: int | None,
    ) -> Generation:
        """Check everything that can be checked and make the generation; nothing is sent to the core yet.

        ``asked_tokens``: the output length the client itself asked for, None when it left that open.
        """
        check_sampling_params(params, self.ready.vocab_size)
        for prompt in prompts:
            check_prompt(
                prompt.token_ids,
                max_model_len=self.ready.max_model_len,
                vocab_size=self.ready.vocab_size,
                max_tokens=asked_tokens,
            )
        self.check_queue(len(prompts))
        now = time.time()
        request_id = self.core.link.id_prefix + request_id
        adds = [
            AddRequest(
                f"{request_id}-{position}" if len(prompts) > 1 else request_id,
                prompt.token_ids,
                params,
                now,
                request.priority or 0,
                request.cache_salt or "",
            )
            for position, prompt in enumerate(prompts)
        ]
        return Generation(self.core, self.tokenizer, self.metrics, adds, arrived)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _rows(self) -> int:
        return self.options.engine.scheduler.max_num_seqs


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _loading() -> RequestError:
    return unavailable("The model is loading; ask again in a few seconds.")
