"""Parsing of requests: whatever comes is either understood or refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.engine.server.running_server import RunningServer

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    parse,
    sampling_params,
)
from octavo_engine.validation import check_sampling_params

KINDS = (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest)
NAMES = sorted(
    {name for kind in KINDS for name in kind.model_fields} | {"tools", "response_format", "suffix"}
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=8)


def _understood(kind: type[Any], body: bytes) -> bool:
    """False for a refusal with a sentence; any other exception is the test's failure."""
    try:
        request = parse(kind, body)
        if isinstance(request, CompletionRequest | ChatRequest):
            check_sampling_params(sampling_params(request, {}, logprobs=None), vocab_size=1000)
    except RequestError as error:
        assert 400 <= error.status < 500
        assert str(error).endswith((".", '."'))
        return False
    return True


@given(kind=st.sampled_from(KINDS), body=BODIES)
def test_any_json_object_is_understood_or_refused_with_a_sentence(
    kind: type[Any], body: dict[str, Any]
) -> None:
    assert _understood(kind, json.dumps(body).encode()) in (True, False)


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]), body=BODIES
)
def test_any_json_object_sent_to_the_server_is_answered_without_a_fault(
    server: RunningServer, path: str, body: dict[str, Any]
) -> None:
    answer = server.client.post(path, content=json.dumps({"max_tokens": 1, **body}).encode())
    assert answer.status_code in (200, 400, 404)
    assert answer.status_code == 200 or answer.json()["error"]["message"]


@given(body=st.binary(max_size=40))
def test_bytes_that_are_no_json_are_refused_with_a_sentence(body: bytes) -> None:
    assert not _understood(CompletionRequest, body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b'{"temperature": 1e999, "prompt": "a"}',
        b"null",
        b"",
        b"\xff",
    ],
    ids=["deep nesting", "half a surrogate", "infinity", "null", "nothing", "no UTF-8"],
)
def test_hostile_json_is_refused(body: bytes) -> None:
    assert not _understood(CompletionRequest, body)


MANY = [None] * 200_000
MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CompletionRequest, {"prompt": MANY}),
        (CompletionRequest, {"prompt": [[1], MANY]}),
        (CompletionRequest, {"prompt": "a", "stop": MANY}),
        (CompletionRequest, {"prompt": "a", "stop_token_ids": MANY}),
        (ChatRequest, {"messages": MANY}),
        (ChatRequest, {"messages": [{**MESSAGE, "content": MANY}]}),
        (ChatRequest, {"messages": [{**MESSAGE, "tool_calls": MANY}]}),
        (TokenizeRequest, {"messages": MANY}),
        (DetokenizeRequest, {"tokens": MANY}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.__name__,
)
def test_a_list_of_nothing_but_faults_is_refused_at_its_first(
    kind: type[Any], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as faults:
        kind.model_validate(fields)
    assert faults.value.error_count() < 10
    with pytest.raises(RequestError) as refusal:
        parse(kind, json.dumps(fields).encode())
    assert refusal.value.param in fields


def test_a_silent_request_takes_the_models_defaults_and_a_speaking_one_its_own() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9}
    request = parse(CompletionRequest, b'{"prompt": "a", "temperature": 0.0}')
    assert sampling_params(request, defaults) == SamplingParams(temperature=0.0, top_p=0.9)


def test_spellings_of_the_api_become_those_of_the_engine() -> None:
    body = {"prompt": "a", "stop": "x", "logit_bias": {"5": -3}, "stop_token_ids": [7], "max_tokens": 9}
    params = sampling_params(parse(CompletionRequest, json.dumps(body).encode()), {})
    assert params == SamplingParams(stop=("x",), logit_bias={5: -3.0}, stop_token_ids=(7,), max_tokens=9)


@pytest.mark.parametrize(
    "token_id",
    ["9" * 5000, "1_0", "\uff11\uff12", "01", "-0", "+1", " 1", "1\n", "1.0", "x", "", "12345678901"],
)
def test_a_bias_names_its_token_in_plain_digits(token_id: str) -> None:
    """Whatever else int() reads is refused: "1" and "01" would be two biases of one token."""
    body = {"prompt": "a", "logit_bias": {"1": 1, token_id: 2}}
    with pytest.raises(RequestError, match="is no token id") as refusal:
        sampling_params(parse(CompletionRequest, json.dumps(body).encode()), {})
    assert refusal.value.param == "logit_bias"
    assert json.dumps(token_id, ensure_ascii=False)[:70] in str(refusal.value)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize("value", [None, True, "1", [], {"a": 1}])
def test_a_bias_is_a_number(value: object) -> None:
    body = {"prompt": "a", "logit_bias": {"0": 1.5, "12": value}}
    with pytest.raises(RequestError, match="logit_bias of token 12 must be a number") as refusal:
        sampling_params(parse(CompletionRequest, json.dumps(body).encode()), {})
    assert refusal.value.param == "logit_bias"


@pytest.mark.parametrize("name", ["tools", "functions", "guided_json", "web_search_options", "audio"])
def test_a_field_that_is_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(RequestError, match=f"leave out {name}") as refusal:
        parse(ChatRequest, json.dumps({"messages": [], name: {"a": 1}}).encode())
    assert refusal.value.param == name


@pytest.mark.parametrize("value", [None, [], "none", "auto", ""])
def test_a_field_that_is_not_built_may_ask_for_nothing(value: object) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "tool_choice": value, "tools": value}
    assert parse(ChatRequest, json.dumps(body).encode()).messages[0].content == "a"
