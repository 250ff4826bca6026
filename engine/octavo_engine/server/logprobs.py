"""Log probabilities in the two shapes of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo_engine.messages import TokenLogprobs
from octavo_engine.tokenizer import Tokenizer

_FLOOR = -9999.0  # JSON has no minus infinity


def chat_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """``{"content": [{"token", "logprob", "bytes", "top_logprobs"}]}``"""
    return {"content": [_chat_position(tokenizer, position) for position in positions]}


def completion_logprobs(
    tokenizer: Tokenizer, positions: Sequence[TokenLogprobs | None], token_ids: Sequence[int], offset: int
) -> dict[str, Any]:
    """``{"tokens", "token_logprobs", "top_logprobs", "text_offset"}``; None for a prompt's first token.

    ``offset``: characters of the choice's text before the first of ``token_ids``.
    """
    tokens = [tokenizer.decode([token_id], skip_special_tokens=False) for token_id in token_ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [position and _finite(position.logprobs[0]) for position in positions],
        "top_logprobs": [position and _by_token(tokenizer, position) for position in positions],
        "text_offset": offsets,
    }


def prompt_logprobs(
    tokenizer: Tokenizer, positions: Sequence[TokenLogprobs | None]
) -> list[dict[str, dict[str, Any]] | None]:
    """``{id: {"logprob", "rank", "decoded_token"}}`` of each token, its own first; None for a prompt's first.

    The shape is vLLM's: OpenAI has none.
    """
    return [None if position is None else _by_id(tokenizer, position) for position in positions]


def _by_id(tokenizer: Tokenizer, position: TokenLogprobs) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for place, (token_id, logprob) in enumerate(zip(position.token_ids, position.logprobs, strict=True)):
        token = tokenizer.decode([token_id], skip_special_tokens=False)
        rank = place or position.rank  # the alternatives stand in order
        entries.setdefault(str(token_id), {"logprob": _finite(logprob), "rank": rank, "decoded_token": token})
    return entries


def _chat_position(tokenizer: Tokenizer, position: TokenLogprobs) -> dict[str, Any]:
    entries = [
        _chat_entry(tokenizer, token_id, logprob)
        for token_id, logprob in zip(position.token_ids, position.logprobs, strict=True)
    ]
    return {**entries[0], "top_logprobs": entries[1:]}


def _chat_entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    token = tokenizer.decode([token_id], skip_special_tokens=False)
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode())}


def _by_token(tokenizer: Tokenizer, position: TokenLogprobs) -> dict[str, float]:
    """The alternatives and the chosen token; the more likely wins where two are spelled alike."""
    found: dict[str, float] = {}
    for token_id, logprob in zip(position.token_ids, position.logprobs, strict=True):
        token = tokenizer.decode([token_id], skip_special_tokens=False)
        found[token] = max(found.get(token, _FLOOR), _finite(logprob))
    return found


def _finite(logprob: float) -> float:
    return max(logprob, _FLOOR)
