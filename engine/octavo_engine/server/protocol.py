"""What clients may send: the OpenAI API's requests with the field's usual extensions, parsed and refused.

Fields nobody knows are let through, as OpenAI's own server does. Fields that are known to change the answer
but are not built yet are refused with a sentence: silence would be a lie.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.validation import MAX_INTEGER

UNBUILT = {
    "tools": "Tool calls are not supported yet",
    "functions": "Function calls are not supported yet",
    "function_call": "Function calls are not supported yet",
    "tool_choice": "Tool calls are not supported yet",
    "guided_json": "Structured output is not supported yet",
    "guided_regex": "Structured output is not supported yet",
    "guided_choice": "Structured output is not supported yet",
    "guided_grammar": "Structured output is not supported yet",
    "structured_outputs": "Structured output is not supported yet",
    "suffix": "Inserting before a suffix is not supported",
    "audio": "Audio is not supported",
    "prediction": "Predicted output is not supported",
    "web_search_options": "Web search is not supported",
    "reasoning_effort": "Reasoning effort is not supported yet",
    "use_beam_search": "Beam search is not supported",
    "prompt_embeds": "Prompt embeddings are not supported",
    "chat_template": "A template in the request is not supported; start the server with --chat-template FILE",
    "return_tokens_as_token_ids": "Tokens spelled as ids are not supported yet",
    "documents": "Documents for the chat template are not supported yet; put them into a message",
    "allowed_token_ids": "Restricting the vocabulary is not supported yet; use logit_bias",
    "bad_words": "Forbidding words is not supported yet; use logit_bias",
    "mm_processor_kwargs": "Images and audio are not supported",
    "lora_request": "LoRA adapters are not supported yet",
}
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")
_NOTHING: tuple[object, ...] = (None, False, "", "none", "auto")  # values by which a client asks for nothing

Body = TypeVar("Body", bound="_Request")
Item = TypeVar("Item")
Many = Annotated[
    list[Item], Field(fail_fast=True)
]  # an error for each of a million items would fill the memory


class StreamOptions(BaseModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # in every chunk


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())
    unbuilt: ClassVar[dict[str, str]] = {}  # beside those of every kind of request

    model: str | None = Field(None, description="a string naming a served model")


class GenerationRequest(_Request):
    """The fields that completions and chat have in common; None means that the request is silent."""

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None  # checked by _logit_bias, which ends at the first fault
    seed: int | None = None
    stop: str | Many[str] | None = Field(None, description="a string or a list of strings")
    stop_token_ids: Many[int] | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    priority: int | None = Field(None, ge=-MAX_INTEGER, le=MAX_INTEGER)
    truncate_prompt_tokens: int | None = None
    return_token_ids: bool | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        options = self.stream_options
        return options is not None and options.include_usage and options.continuous_usage_stats


class CompletionRequest(GenerationRequest):
    prompt: str | Many[int] | Many[str] | Many[Many[int]] = Field(
        description="a string, a list of strings, a list of token ids, or a list of lists of token ids"
    )
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None


class TextPart(BaseModel):
    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Many[TextPart] | None = Field(None, description="a string or a list of parts of type text")
    name: str | None = None
    tool_calls: Many[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def for_template(self, position: int) -> dict[str, Any]:
        """The message as templates expect it. Errors: :class:`RequestError` for parts that are no text."""
        message = self.model_dump(exclude_none=True, exclude={"content"})
        return {**message, "content": self._text(position)}

    def _text(self, position: int) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise RequestError(
                    f"messages[{position}] has a part of type {part.type!r}; only parts of type 'text', "
                    "with a text, are supported.",
                    param="messages",
                )
        return "\n".join(part.text or "" for part in self.content)


class ChatRequest(GenerationRequest):
    unbuilt: ClassVar[dict[str, str]] = {"echo": "Echoing the last message is not supported"}

    messages: Many[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeRequest(_Request):
    prompt: str | None = None
    messages: Many[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(_Request):
    tokens: Many[int]


def parse(kind: type[Body], body: bytes) -> Body:
    """The request in ``body``. Errors: :class:`RequestError` with a sentence and the parameter at fault."""
    if not body:
        raise RequestError("The body is empty; send a JSON object.")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise RequestError(f"The body must be a JSON object, not {_shown(fields)}.")
    _refuse_unbuilt(fields, {**UNBUILT, **kind.unbuilt})
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def sampling_params(request: GenerationRequest, defaults: dict[str, Any], **given: Any) -> SamplingParams:
    """The request's parameters; where it is silent ``defaults`` (the model's own), then the API's, count.

    ``given`` holds what the two APIs spell differently. Ranges are checked by
    :func:`octavo_engine.validation.check_sampling_params`.
    """
    names = set(SamplingParams.__struct_fields__)
    asked = {name: value for name, value in request if name in names and value is not None}
    stop = asked.get("stop", ())
    asked["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    asked["stop_token_ids"] = tuple(asked.get("stop_token_ids", ()))
    asked["logit_bias"] = _logit_bias(request.logit_bias)
    return SamplingParams(**{**defaults, **asked, **given})


def _logit_bias(bias: dict[str, Any] | None) -> dict[int, float] | None:
    if not bias:
        return None
    for token_id, value in bias.items():
        if not _TOKEN_ID.fullmatch(token_id):  # two spellings of one id would overwrite each other in silence
            raise RequestError(
                f"logit_bias must map token ids to numbers; {_shown(token_id)} is no token id; write it in "
                "plain digits, without zeros before it.",
                param="logit_bias",
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(
                f"logit_bias of token {token_id} must be a number, not {_shown(value)}.", param="logit_bias"
            )
    return {int(token_id): value for token_id, value in bias.items()}


def _refuse_unbuilt(fields: dict[str, Any], unbuilt: dict[str, str]) -> None:
    for name, sentence in unbuilt.items():
        value = fields.get(name)
        if not (value in _NOTHING or value == []):
            raise RequestError(f"{sentence}; leave out {name}.", param=name, code="unsupported_parameter")
    kind = fields.get("response_format") or {}
    if kind and (not isinstance(kind, dict) or kind.get("type") != "text"):
        raise RequestError(
            f"Structured output is not supported yet: response_format must be text, not {_shown(kind)}.",
            param="response_format",
            code="unsupported_parameter",
        )
    modalities = fields.get("modalities")
    if modalities not in (None, ["text"]):
        raise RequestError(
            f'This model writes text: modalities must be ["text"], not {_shown(modalities)}.',
            param="modalities",
            code="unsupported_parameter",
        )


def _refusal(kind: type[BaseModel], error: ValidationError) -> RequestError:
    """The first fault as a sentence: for a field of several types its description says what it may be."""
    first = error.errors(include_url=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    field = kind.model_fields.get(param or "")
    if first["type"] == "missing":
        return RequestError(f"{_path(first['loc'])} is missing; it is required.", param=param)
    if field is not None and field.description:
        return RequestError(f"{param} must be {field.description}.", param=param)
    reason = first["msg"].replace("Input should", "must", 1)
    if not reason.startswith("must"):
        reason = f"is not accepted: {reason[:1].lower()}{reason[1:]}"
    return RequestError(f"{_path(first['loc'])} {reason}, not {_shown(first['input'])}.", param=param)


def _path(location: tuple[int | str, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".") or "The body"


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
