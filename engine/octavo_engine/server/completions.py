"""/v1/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.messages import TokenLogprobs
from octavo_engine.server.generation import Delta, Generation
from octavo_engine.server.logprobs import completion_logprobs, prompt_logprobs
from octavo_engine.server.prompts import completion_prompts, num_prompts, prompt_text, shortened
from octavo_engine.server.protocol import CompletionRequest, sampling_params
from octavo_engine.server.serving import Prompt, Serving, new_id
from octavo_engine.server.stream import DONE, ChunkEncoder
from octavo_engine.tokenizer import Tokenizer


class Completion:
    """One request to /v1/completions, checked and ready to run."""

    def __init__(
        self, request: CompletionRequest, model: str, prompts: list[Prompt], tokenizer: Tokenizer
    ) -> None:
        self.request_id = new_id("cmpl")
        self._request = request
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._head = {
            "id": self.request_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._offsets: dict[int, int] = {}  # characters of each choice's text so far

    async def chunks(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The stream's events."""
        include_usage = self._request.include_usage
        encoder = ChunkEncoder(self._head, b'"text":', b"", include_usage)
        async for deltas in generation.deltas():
            if self._request.continuous_usage:
                encoder.show_usage(generation.usage.as_json())
            yield b"".join(
                self._chunk(encoder, delta)
                for delta in deltas
                if delta.text
                or delta.finish_reason
                or delta.logprobs
                or delta.index not in self._offsets
                or self._request.return_token_ids
            )
        yield (encoder.usage(generation.usage.as_json()) if include_usage else b"") + DONE

    def _chunk(self, encoder: ChunkEncoder, delta: Delta) -> bytes:
        token_ids = self._token_ids(delta)
        text, logprobs = self._text_and_logprobs(delta)
        return encoder.delta(delta.index, text, logprobs, delta.finish_reason, token_ids)

    async def answer(self, generation: Generation) -> bytes:
        """The whole answer as JSON."""
        choices: dict[int, dict[str, Any]] = {}
        async for deltas in generation.deltas():
            for delta in deltas:
                self._add(choices, delta)
        ordered = [choices[index] for index in sorted(choices)]
        return msgspec.json.encode({**self._head, "choices": ordered, "usage": generation.usage.as_json()})

    def _add(self, choices: dict[int, dict[str, Any]], delta: Delta) -> None:
        choice = choices.setdefault(delta.index, {"index": delta.index, "text": "", "logprobs": None})
        for name, ids in self._token_ids(delta).items():
            choice.setdefault(name, []).extend(ids)
        text, logprobs = self._text_and_logprobs(delta)
        choice["text"] += text
        if delta.prompt_logprobs is not None and self._request.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self._tokenizer, delta.prompt_logprobs)
        choice["finish_reason"], choice["stop_reason"] = delta.finish_reason, delta.stop_reason
        if logprobs is not None and choice["logprobs"] is not None:
            for name, values in logprobs.items():
                choice["logprobs"][name] += values
        else:
            choice["logprobs"] = logprobs or choice["logprobs"]

    def _token_ids(self, delta: Delta) -> dict[str, list[int]]:
        """What ``return_token_ids`` adds to a choice; its prompt's come with its first delta."""
        if not self._request.return_token_ids:
            return {}
        if delta.index in self._offsets:
            return {"token_ids": delta.token_ids}
        return {"token_ids": delta.token_ids, "prompt_token_ids": self._prompt_of(delta).token_ids}

    def _prompt_of(self, delta: Delta) -> Prompt:
        return self._prompts[delta.index // (self._request.n or 1)]

    def _text_and_logprobs(self, delta: Delta) -> tuple[str, dict[str, Any] | None]:
        """The delta's text, with the prompt before it in a choice's first delta when ``echo`` is set."""
        request = self._request
        first = delta.index not in self._offsets
        silent = request.max_tokens == 0  # the client wants its prompt back and nothing more
        text = "" if silent else delta.text
        positions: list[TokenLogprobs | None] = [] if silent else list(delta.logprobs)
        token_ids = [] if silent else delta.token_ids
        if request.echo and first:
            prompt = self._prompt_of(delta)
            text = prompt_text(self._tokenizer, prompt) + text
            token_ids = prompt.token_ids + token_ids
            positions = list(delta.prompt_logprobs or [None] * len(prompt.token_ids)) + positions
        offset = self._offsets.get(delta.index, 0)
        self._offsets[delta.index] = offset + len(text)
        if request.logprobs is None:
            return text, None
        return text, completion_logprobs(self._tokenizer, positions, token_ids[: len(positions)], offset)


async def begin_completion(
    serving: Serving, request: CompletionRequest, arrived: float
) -> tuple[Completion, Generation]:
    """Check and tokenize. Errors: :class:`RequestError`."""
    model = serving.check_model(request.model)
    _check(request)
    max_model_len = serving.ready.max_model_len
    serving.check_queue(num_prompts(request))  # tokenizing is work too
    prompts = shortened(
        await completion_prompts(serving, request),
        request.truncate_prompt_tokens,
        max_model_len,
        request.max_tokens,
    )
    completion = Completion(request, model, prompts, serving.tokenizer)
    given: dict[str, Any] = {"logprobs": request.logprobs}
    if request.max_tokens == 0:
        given["max_tokens"] = 1
    if request.echo and request.logprobs is not None and request.prompt_logprobs is None:
        given["prompt_logprobs"] = request.logprobs
    params = sampling_params(request, serving.options.generation_defaults, **given)
    generation = serving.generation(
        request,
        prompts,
        params,
        request_id=completion.request_id,
        arrived=arrived,
        asked_tokens=request.max_tokens,
    )
    return completion, generation


def _check(request: CompletionRequest) -> None:
    if request.max_tokens == 0 and not request.echo:
        raise RequestError("max_tokens must be at least 1, not 0, unless echo is set.", param="max_tokens")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise RequestError(
            f"best_of is {request.best_of}; only the value of n, {request.n or 1}, is supported.",
            param="best_of",
        )
