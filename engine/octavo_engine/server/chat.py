"""/v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.generation import Delta, Generation
from octavo_engine.server.logprobs import chat_logprobs
from octavo_engine.server.protocol import ChatMessage, ChatRequest, sampling_params
from octavo_engine.server.serving import Prompt, Serving, new_id
from octavo_engine.server.stream import DONE, ChunkEncoder
from octavo_engine.tokenizer import Tokenizer


class Chat:
    """One request to /v1/chat/completions, checked and ready to run."""

    def __init__(self, request: ChatRequest, model: str, tokenizer: Tokenizer) -> None:
        self.request_id = new_id("chatcmpl")
        self._request = request
        self._tokenizer = tokenizer
        self._created = int(time.time())
        self._model = model

    async def chunks(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The stream's events; each choice begins with its role."""
        include_usage = self._request.include_usage
        encoder = ChunkEncoder(
            self._head("chat.completion.chunk"), b'"delta":{"content":', b"}", include_usage
        )
        begun: set[int] = set()
        async for deltas in generation.deltas():
            events = []
            for delta in deltas:
                if delta.index not in begun:
                    begun.add(delta.index)
                    events.append(encoder.raw(_opening(delta.index)))
                if delta.text or delta.finish_reason or delta.logprobs:
                    events.append(
                        encoder.delta(delta.index, delta.text, self._logprobs(delta), delta.finish_reason)
                    )
            yield b"".join(events)
        yield (encoder.usage(generation.usage.as_json()) if include_usage else b"") + DONE

    async def answer(self, generation: Generation) -> bytes:
        """The whole answer as JSON."""
        choices: dict[int, dict[str, Any]] = {}
        async for deltas in generation.deltas():
            for delta in deltas:
                self._add(choices, delta)
        ordered = [choices[index] for index in sorted(choices)]
        body = {**self._head("chat.completion"), "choices": ordered, "usage": generation.usage.as_json()}
        return msgspec.json.encode(body)

    def _add(self, choices: dict[int, dict[str, Any]], delta: Delta) -> None:
        message = {"role": "assistant", "content": "", "refusal": None}
        choice = choices.setdefault(delta.index, {"index": delta.index, "message": message, "logprobs": None})
        choice["message"]["content"] += delta.text
        choice["finish_reason"], choice["stop_reason"] = delta.finish_reason, delta.stop_reason
        logprobs = self._logprobs(delta)
        if choice["logprobs"] is None:
            choice["logprobs"] = logprobs
        elif logprobs is not None:
            choice["logprobs"]["content"] += logprobs["content"]

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
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    token_ids = await chat_token_ids(
        serving,
        request.messages,
        add_generation_prompt=request.add_generation_prompt,
        variables=request.chat_template_kwargs or {},
    )
    asked = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    params = _params(serving, request, asked, len(token_ids))
    chat = Chat(request, model, serving.tokenizer)
    generation = serving.generation(
        request,
        [Prompt(token_ids)],
        params,
        request_id=chat.request_id,
        arrived=arrived,
        asked_tokens=asked,
    )
    return chat, generation


async def chat_token_ids(
    serving: Serving, messages: list[ChatMessage], *, add_generation_prompt: bool, variables: dict[str, Any]
) -> list[int]:
    """The conversation as the model's template spells it, tokenized beside the event loop."""
    reserved = {"messages", "tools", "add_generation_prompt"} & set(variables)
    if reserved:
        raise RequestError(
            f"chat_template_kwargs must not set {', '.join(sorted(reserved))}.", param="chat_template_kwargs"
        )
    rendered = [message.for_template(position) for position, message in enumerate(messages)]
    tokenizer = serving.tokenizer
    return await serving.in_thread(
        lambda: tokenizer.apply_chat_template(rendered, None, add_generation_prompt, **variables)
    )


def _params(serving: Serving, request: ChatRequest, asked: int | None, prompt_tokens: int) -> SamplingParams:
    room = max(1, serving.ready.max_model_len - prompt_tokens)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return sampling_params(
        request,
        serving.options.generation_defaults,
        max_tokens=room if asked is None else asked,
        logprobs=logprobs,
    )
