"""What is refused, over a fake model: in a sentence, as an OpenAI error object that names the parameter."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.server.running_server import RunningServer

PROMPT = "What is a book?"

ERRORS: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    (
        "an unknown model",
        {"model": "gpt-9"},
        404,
        "model",
        "'gpt-9' does not exist here; served are tiny, alias",
    ),
    (
        "a prompt too long",
        {"prompt": "x" * 5000},
        400,
        "prompt",
        "has 5000 tokens, but this model's maximum context length is 4096",
    ),
    (
        "a text that is too long however it is tokenized",
        {"prompt": "x" * (7 * 4096 + 1)},  # the longest token has 7 characters
        400,
        "prompt",
        "28673 characters, which are 4097 tokens or more, but this model's maximum context length is 4096",
    ),
    (
        "such a text among others",
        {"prompt": ["a", "x" * 100_000]},
        400,
        "prompt",
        "The prompt has 100000 characters",
    ),
    (
        "no room for the answer",
        {"max_tokens": 5000},
        400,
        "max_tokens",
        "15 tokens and max_tokens asks for 5000",
    ),
    ("an empty prompt", {"prompt": ""}, 400, "prompt", "is empty"),
    ("an empty list", {"prompt": []}, 400, "prompt", "empty list"),
    ("a prompt of another type", {"prompt": {"a": 1}}, 400, "prompt", "must be a string, a list of strings"),
    ("a mixed prompt", {"prompt": ["a", 1]}, 400, "prompt", "must be a string, a list of strings"),
    (
        "an id beyond the vocabulary",
        {"prompt": [5, 1000]},
        400,
        "prompt",
        "1000, but the vocabulary ends at 999",
    ),
    ("a temperature below 0", {"temperature": -1}, 400, "temperature", "temperature must be a number from 0"),
    (
        "a temperature in words",
        {"temperature": "hot"},
        400,
        "temperature",
        'must be a valid number, not "hot"',
    ),
    ("top_p above 1", {"top_p": 1.5}, 400, "top_p", "at most 1, not 1.5"),
    ("n of 0", {"n": 0}, 400, "n", "n must be between 1 and"),
    ("max_tokens of 0", {"max_tokens": 0}, 400, "max_tokens", "at least 1, not 0"),
    ("too many logprobs", {"logprobs": 99}, 400, "logprobs", "between 0 and 20, not 99"),
    ("a bias of no token", {"logit_bias": {"x": 1}}, 400, "logit_bias", '"x" is no token id'),
    (
        "a bias beyond its range",
        {"logit_bias": {"5": 101}},
        400,
        "logit_bias",
        "between -100 and 100, not 101",
    ),
    ("an empty stop string", {"stop": ""}, 400, "stop", "none of them empty"),
    ("best_of above n", {"best_of": 3}, 400, "best_of", "best_of is 3; only the value of n, 1"),
    ("a suffix", {"suffix": "end"}, 400, "suffix", "suffix is not supported"),
    (
        "a JSON schema",
        {"response_format": {"type": "json_schema"}},
        400,
        "response_format",
        "not supported yet",
    ),
    ("a guided regex", {"guided_regex": "a+"}, 400, "guided_regex", "Structured output is not supported yet"),
    (
        "prompt_logprobs in a stream",
        {"prompt_logprobs": 1, "stream": True},
        400,
        "prompt_logprobs",
        "needs stream to be false",
    ),
    (
        "stream_options alone",
        {"stream_options": {}},
        400,
        "stream_options",
        "only allowed when stream is true",
    ),
]


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_a_bad_completion_is_refused_in_words(
    server: RunningServer, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    answer = server.client.post("/v1/completions", json={"prompt": PROMPT, **fields})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert words in error["message"]
    assert error["param"] == param


CHAT_ERRORS: list[tuple[str, dict[str, Any], str, str]] = [
    ("tools", {"tools": [{"type": "function"}]}, "tools", "Tool calls are not supported yet"),
    ("no messages", {"messages": []}, "messages", "at least one message"),
    (
        "an unknown role",
        {"messages": [{"role": "king", "content": ""}]},
        "messages",
        "messages[0].role must be",
    ),
    (
        "a picture",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages",
        "part of type 'image_url'",
    ),
    ("top_logprobs alone", {"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ("too many of them", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "between 0 and 20, not 21"),
    ("speech", {"modalities": ["text", "audio"]}, "modalities", 'must be ["text"]'),
    ("an echo", {"echo": True}, "echo", "not supported; leave out echo"),
    (
        "going on with a question",
        {"continue_final_message": True},
        "messages",
        "needs a last message of the assistant",
    ),
    (
        "going on and beginning anew",
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "set one of them",
    ),
    (
        "0 tokens of the prompt",
        {"truncate_prompt_tokens": 0},
        "truncate_prompt_tokens",
        "must be -1 or from 1",
    ),
    (
        "a template variable in use",
        {"chat_template_kwargs": {"messages": []}},
        "chat_template_kwargs",
        "must not",
    ),
]


@pytest.mark.parametrize(
    ("fields", "param", "words"), [e[1:] for e in CHAT_ERRORS], ids=[e[0] for e in CHAT_ERRORS]
)
def test_a_bad_chat_is_refused_in_words(
    server: RunningServer, fields: dict[str, Any], param: str, words: str
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    answer = server.client.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert words in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object, not [1]"),
        (b"{}", "prompt is missing"),
    ],
)
def test_a_malformed_body_is_a_400(server: RunningServer, body: bytes, words: str) -> None:
    answer = server.client.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/embeddings", 404), ("GET", "/nothing", 404), ("GET", "/v1/completions", 405)],
)
def test_a_path_that_is_not_served_is_an_error_object(
    server: RunningServer, method: str, path: str, status: int
) -> None:
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]
