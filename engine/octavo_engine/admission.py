"""Which requests are taken: what could never run is refused with a sentence, and so is more than can wait."""

from __future__ import annotations

from octavo_engine.batch import Batch
from octavo_engine.config import SchedulerConfig
from octavo_engine.errors import RequestError
from octavo_engine.messages import AddRequest


def check_admissible(message: AddRequest, config: SchedulerConfig, max_model_len: int, batch: Batch) -> None:
    """Errors: RequestError, status 400 for a request that could never run, 429 when the queue is full."""
    length, places = len(message.prompt_token_ids), message.params.n
    if message.request_id in batch.requests:
        raise RequestError(f"A request with the id {message.request_id!r} is under way; choose another.")
    if not length:
        raise RequestError("The prompt is empty; send at least one token.", param="prompt")
    if length >= max_model_len:
        raise RequestError(
            f"The prompt has {length} tokens, but prompt and answer together may have {max_model_len} here;"
            f" send at most {max_model_len - 1} tokens.",
            param="prompt",
            code="context_length_exceeded",
        )
    if not 1 <= places <= config.max_num_seqs:
        raise RequestError(
            f"n is {places}, but this server runs at most {config.max_num_seqs} sequences at once;"
            " ask for fewer answers.",
            param="n",
        )
    if len(batch.waiting) >= config.max_waiting:
        raise RequestError(
            f"{len(batch.waiting)} requests wait already, which is the limit; try again later.",
            status=429,
            kind="rate_limit_error",
            retry_after=1,
        )
