"""/v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.messages import TokenLogprobs
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.generation import Delta, Generation
from octavo_engine.server.logprobs import chat_logprobs, prompt_logprobs
from octavo_engine.server.prompts import chat_prompt, room_for_text, shortened
from octavo_engine.server.protocol import ChatRequest, sampling_params
from octavo_engine.server.serving import Prompt, Serving, new_id
from octavo_engine.server.stream import DONE, ChunkEncoder
from octavo_engine.tokenizer import Tokenizer
from octavo_engine.validation import MAX_LOGPROBS


class Chat:
    """One request to /v1/chat/completions, checked and ready to run."""

    def __init__(self, request: ChatRequest, model: str, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self.request_id = new_id("chatcmpl")
        self._request = request
        self._tokenizer = tokenizer
        self._created = int(time.time())
        self._model = model
        self._prompt_ids = {"prompt_token_ids": prompt.token_ids} if request.return_token_ids else {}
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None

    async def chunks(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The stream's events; each choice begins with its role."""
        include_usage = self._request.include_usage
        encoder = ChunkEncoder(
            self._head("chat.completion.chunk"), b'"delta":{"content":', b"}", include_usage
        )
        begun: set[int] = set()
        async for deltas in generation.deltas():
            if self._request.continuous_usage:
                encoder.show_usage(generation.usage.as_json())
            events = []
            for delta in deltas:
                if delta.index not in begun:
                    events.append(encoder.raw(_opening(delta.index), None if begun else self._prompt_ids))
                    begun.add(delta.index)
                token_ids = self._token_ids(delta)
                if delta.text or delta.finish_reason or delta.logprobs or token_ids:
                    logprobs, finish = self._logprobs(delta), delta.finish_reason
                    events.append(encoder.delta(delta.index, delta.text, logprobs, finish, token_ids))
            yield b"".join(events)
        yield (encoder.usage(generation.usage.as_json()) if include_usage else b"") + DONE

    async def answer(self, generation: Generation) -> bytes:
        """The whole answer as JSON."""
        choices: dict[int, dict[str, Any]] = {}
        async for deltas in generation.deltas():
            for delta in deltas:
                self._add(choices, delta)
        ordered = [choices[index] for index in sorted(choices)]
        usage = generation.usage.as_json()
        body = {**self._head("chat.completion"), "choices": ordered, "usage": usage, **self._prompt_ids}
        if self._prompt_logprobs is not None:
            body["prompt_logprobs"] = prompt_logprobs(self._tokenizer, self._prompt_logprobs)
        return msgspec.json.encode(body)

    def _add(self, choices: dict[int, dict[str, Any]], delta: Delta) -> None:
        message = {"role": "assistant", "content": "", "refusal": None}
        choice = choices.setdefault(delta.index, {"index": delta.index, "message": message, "logprobs": None})
        choice["message"]["content"] += delta.text
        for name, ids in self._token_ids(delta).items():
            choice.setdefault(name, []).extend(ids)
        self._prompt_logprobs = delta.prompt_logprobs or self._prompt_logprobs
        choice["finish_reason"], choice["stop_reason"] = delta.finish_reason, delta.stop_reason
        logprobs = self._logprobs(delta)
        if choice["logprobs"] is None:
            choice["logprobs"] = logprobs
        elif logprobs is not None:
            choice["logprobs"]["content"] += logprobs["content"]

    def _token_ids(self, delta: Delta) -> dict[str, list[int]]:
        return {"token_ids": delta.token_ids} if self._request.return_token_ids else {}

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, delta.logprobs) if self._request.logprobs else None

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.request_id, "object": kind, "created": self._created, "model": self._model}


def _opening(index: int) -> dict[str, Any]:
    delta = {"role": "assistant", "content": ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


async def begin_chat(serving: Serving, request: ChatRequest, arrived: float) -> tuple[Chat, Generation]:
    """Check, render the template and tokenize. Errors: :class:`RequestError`."""
    model = serving.check_model(request.model)
    _check_top_logprobs(request)
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    serving.check_queue(1)  # templates and tokenizing are work too
    prompt = await chat_prompt(
        serving,
        request.messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.chat_template_kwargs or {},
        room=room_for_text(serving, request),
    )
    max_model_len = serving.ready.max_model_len
    prompts = shortened([prompt], request.truncate_prompt_tokens, max_model_len, asked)
    room = max(1, max_model_len - len(prompts[0].token_ids))
    params = _params(serving, request, room if asked is None else asked)
    chat = Chat(request, model, prompts[0], serving.tokenizer)
    generation = serving.generation(
        request,
        prompts,
        params,
        request_id=chat.request_id,
        arrived=arrived,
        asked_tokens=asked,
    )
    return chat, generation


def _check_top_logprobs(request: ChatRequest) -> None:
    if request.top_logprobs is None:
        return
    if not request.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if not 0 <= request.top_logprobs <= MAX_LOGPROBS:
        raise RequestError(
            f"top_logprobs must be between 0 and {MAX_LOGPROBS}, not {request.top_logprobs}.",
            param="top_logprobs",
        )


def _params(serving: Serving, request: ChatRequest, max_tokens: int) -> SamplingParams:
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return sampling_params(
        request,
        serving.options.generation_defaults,
        max_tokens=max_tokens,
        logprobs=logprobs,
    )
