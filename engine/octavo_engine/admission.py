"""Which requests are taken: what could never run is refused with a sentence, and so is more than can wait."""

from __future__ import annotations

from octavo_engine.batch import Batch
from octavo_engine.config import SchedulerConfig
from octavo_engine.errors import RequestError
from octavo_engine.messages import AddRequest
from octavo_engine.validation import check_prompt


def check_admissible(
    message: AddRequest, config: SchedulerConfig, max_model_len: int, vocab_size: int, batch: Batch
) -> None:
    """Errors: RequestError, status 400 for a request that could never run, 429 when the queue is full."""
    places = message.params.n
    if message.request_id in batch.requests:
        raise RequestError(f"A request with the id {message.request_id!r} is under way; choose another.")
    check_prompt(message.prompt_token_ids, max_model_len=max_model_len, vocab_size=vocab_size)
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
