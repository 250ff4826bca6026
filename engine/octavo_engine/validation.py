"""What a request may ask for. Each check refuses in a sentence that names the parameter and its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams

MAX_SEQUENCES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 32
MAX_INTEGER = 2**31 - 1  # what rows on a device hold


class _Rule(NamedTuple):
    param: str
    allowed: str  # completes "must be ..."
    holds: Callable[[Any], bool]


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high  # False for NaN


def _optional(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


_RULES = (
    _Rule("n", f"between 1 and {MAX_SEQUENCES}", _between(1, MAX_SEQUENCES)),
    _Rule("temperature", "a number from 0 up", lambda value: 0 <= value < math.inf),
    _Rule("top_p", "above 0 and at most 1", lambda value: 0 < value <= 1),
    _Rule("top_k", f"-1 or 0 (off), or from 1 to {MAX_INTEGER}", _between(-1, MAX_INTEGER)),
    _Rule("min_p", "between 0 and 1", _between(0, 1)),
    _Rule("presence_penalty", "between -2 and 2", _between(-2, 2)),
    _Rule("frequency_penalty", "between -2 and 2", _between(-2, 2)),
    _Rule("repetition_penalty", "between 0.01 and 100", _between(0.01, 100)),
    _Rule("seed", "an integer of 64 bits", _optional(_between(-(2**63), 2**63 - 1))),
    _Rule("max_tokens", f"at least 1 and at most {MAX_INTEGER}", _optional(_between(1, MAX_INTEGER))),
    _Rule("min_tokens", f"at least 0 and at most {MAX_INTEGER}", _between(0, MAX_INTEGER)),
    _Rule("logprobs", f"between 0 and {MAX_LOGPROBS}", _optional(_between(0, MAX_LOGPROBS))),
    _Rule("prompt_logprobs", f"between 0 and {MAX_LOGPROBS}", _optional(_between(0, MAX_LOGPROBS))),
    _Rule(
        "stop", "at most 32 strings, none of them empty", lambda value: len(value) <= MAX_STOPS and all(value)
    ),
)


def check_sampling_params(params: SamplingParams, vocab_size: int | None = None) -> None:
    """Raise :class:`RequestError` for the first parameter that is out of its range.

    ``vocab_size``: when given, token ids in ``logit_bias`` and ``stop_token_ids`` must lie below it.
    """
    for rule in _RULES:
        value = getattr(params, rule.param)
        if not rule.holds(value):
            raise _refused(rule.param, f"{rule.param} must be {rule.allowed}, not {_shown(value)}.")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise _refused(
            "min_tokens",
            f"min_tokens is {params.min_tokens}, above max_tokens, which is {params.max_tokens}.",
        )
    _check_logit_bias(params.logit_bias or {}, vocab_size)
    _check_token_ids("stop_token_ids", params.stop_token_ids, vocab_size)


def check_prompt(
    token_ids: Sequence[int],
    *,
    max_model_len: int,
    vocab_size: int | None = None,
    max_tokens: int | None = None,
    param: str = "prompt",
) -> None:
    """Raise :class:`RequestError` for an empty prompt, unknown ids, or no room for an answer.

    ``max_tokens``: output tokens asked for; None when as many as fit will do.
    """
    if not token_ids:
        raise _refused(param, "The prompt is empty; it must have at least one token.")
    _check_token_ids(param, token_ids, vocab_size)
    wanted = len(token_ids) + (max_tokens or 1)
    if wanted > max_model_len:
        raise RequestError(
            f"The prompt has {len(token_ids)} tokens"
            + (f" and max_tokens asks for {max_tokens} more" if max_tokens else "")
            + f", but this model's maximum context length is {max_model_len} tokens"
            + (" for both together." if max_tokens else ", of which the answer needs at least one."),
            param="max_tokens" if max_tokens and len(token_ids) < max_model_len else param,
            code="context_length_exceeded",
        )


def check_text(text: str, fewest_tokens: int, max_model_len: int) -> None:
    """Raise :class:`RequestError` for a text that is too long however it is tokenized.

    ``fewest_tokens``: how many it has at least.
    """
    if fewest_tokens > max_model_len:
        raise RequestError(
            f"The prompt has {len(text)} characters, which are {fewest_tokens} tokens or more, but this "
            f"model's maximum context length is {max_model_len} tokens, of "
            "which the answer needs at least one.",
            param="prompt",
            code="context_length_exceeded",
        )


def _check_logit_bias(bias: dict[int, float], vocab_size: int | None) -> None:
    _check_token_ids("logit_bias", list(bias), vocab_size)
    for token_id, value in bias.items():
        if not -100 <= value <= 100:
            raise _refused(
                "logit_bias", f"logit_bias of token {token_id} must be between -100 and 100, not {value}."
            )


def _check_token_ids(param: str, token_ids: Sequence[int], vocab_size: int | None) -> None:
    if not token_ids:
        return
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0:
        raise _refused(param, f"{param} holds the token id {lowest}; token ids begin at 0.")
    if vocab_size is not None and highest >= vocab_size:
        raise _refused(
            param, f"{param} holds the token id {highest}, but the vocabulary ends at {vocab_size - 1}."
        )


def _refused(param: str, sentence: str) -> RequestError:
    return RequestError(sentence, param=param)


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."
