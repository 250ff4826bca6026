"""What a request wants to be read: its texts, tokens or messages as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo_engine.errors import RequestError
from octavo_engine.server.protocol import ChatMessage, CompletionRequest, GenerationRequest
from octavo_engine.server.serving import Prompt, Serving
from octavo_engine.tokenizer import Tokenizer


async def completion_prompts(serving: Serving, request: CompletionRequest) -> list[Prompt]:
    """The prompts of /v1/completions. Errors: :class:`RequestError`."""
    prompt = request.prompt
    special = request.add_special_tokens is not False
    room = room_for_text(serving, request)
    if isinstance(prompt, str):
        return [await serving.encode(prompt, special, room)]
    if not prompt:
        raise RequestError(
            "The prompt is an empty list; it must hold at least one token or text.", param="prompt"
        )
    if isinstance(prompt[0], int):
        return [Prompt([token for token in prompt if isinstance(token, int)])]
    return [
        await serving.encode(entry, special, room) if isinstance(entry, str) else Prompt(entry)
        for entry in prompt
        if not isinstance(entry, int)
    ]


def room_for_text(serving: Serving, request: GenerationRequest) -> int | None:
    """The tokens that a prompt's text must fit into; None when it is cut after it was tokenized."""
    return serving.ready.max_model_len if request.truncate_prompt_tokens is None else None


def num_prompts(request: CompletionRequest) -> int:
    """How many prompts the request has, known before they are tokenized."""
    prompt = request.prompt
    return 1 if not prompt or isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)


async def chat_prompt(
    serving: Serving,
    messages: list[ChatMessage],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool | None,
    variables: dict[str, Any],
    room: int | None = None,
) -> Prompt:
    """The conversation as the model's template spells it, tokenized beside the event loop.

    ``continue_final_message``: it ends within the last message, for the model to go on from there.
    ``room``: tokens that a text must have no more of, when it has to fit.
    Errors: :class:`RequestError`.
    """
    if not messages:
        raise RequestError("messages is empty; it must hold at least one message.", param="messages")
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "continue_final_message goes on with the last message, and add_generation_prompt begins another; "
            "set one of them.",
            param="continue_final_message",
        )
    rendered = [message.for_template(position) for position, message in enumerate(messages)]
    begin = add_generation_prompt is not False and not continue_final_message
    tokenizer = serving.tokenizer

    def token_ids() -> list[int]:
        text = tokenizer.render_chat(rendered, None, begin, variables)
        if continue_final_message:
            text = _within_last_message(text, rendered[-1])
        serving.check_text(text, room)
        return tokenizer.encode(text, add_special_tokens=False)

    return Prompt(await serving.in_thread(token_ids))


def _within_last_message(text: str, message: dict[str, Any]) -> str:
    """``text`` up to the end of what its last message says; templates may strip that."""
    said = str(message["content"]).strip()
    if message["role"] != "assistant" or not said:
        raise RequestError(
            "continue_final_message needs a last message of the assistant with a text to go on from.",
            param="messages",
        )
    end = text.rfind(said)
    if end < 0:
        raise RequestError(
            "This model's chat template rewrites the last message, so that it cannot be continued.",
            param="continue_final_message",
        )
    return text[: end + len(said)]


def shortened(
    prompts: Sequence[Prompt], wanted: int | None, max_model_len: int, asked_tokens: int | None
) -> list[Prompt]:
    """The last ``wanted`` tokens of each; -1: as many as leave room for the answer; None: all."""
    if wanted is None:
        return list(prompts)
    if wanted == 0 or wanted < -1 or wanted > max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens must be -1 or from 1 to {max_model_len}, not {wanted}.",
            param="truncate_prompt_tokens",
        )
    count = wanted if wanted > 0 else max(1, max_model_len - (asked_tokens or 1))
    return [p if len(p.token_ids) <= count else Prompt(p.token_ids[-count:]) for p in prompts]


def prompt_text(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The prompt as it was given, or what its tokens spell."""
    return tokenizer.decode(prompt.token_ids) if prompt.text is None else prompt.text
