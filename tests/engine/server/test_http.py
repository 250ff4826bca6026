"""The HTTP surface over a fake model, whose tokens depend only on the prompt: answers and streams."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from tests.engine.server.running_server import RunningServer, until

PROMPT = "What is a book?"


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def complete(server: RunningServer, **fields: Any) -> dict[str, Any]:
    body = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, **fields}
    answer = server.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_streamed_completion_says_what_the_whole_one_says(
    server: RunningServer, client: openai.OpenAI
) -> None:
    whole = complete(server)
    options = {"include_usage": True}
    stream = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=12,
        stream=True,
        stream_options=options,
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole["choices"][0]["text"]
    assert chunks[-2].choices[0].finish_reason == whole["choices"][0]["finish_reason"] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"] == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_streamed_chat_begins_with_the_role_and_says_what_the_whole_one_says(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": "alias",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_completion_tokens": 10,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    )
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert whole.model == "alias"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 10


def test_a_stop_string_across_tokens_ends_the_text_before_it(server: RunningServer) -> None:
    text = complete(server)["choices"][0]["text"]
    stop = text[5:12]
    answer = complete(server, stop=[stop, "never"])
    assert answer["choices"][0]["text"] == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["stop_reason"] == stop
    assert answer["usage"]["completion_tokens"] < 12
    kept = complete(server, stop=stop, include_stop_str_in_output=True)["choices"][0]["text"]
    assert kept == text[: text.index(stop) + len(stop)]


def test_several_prompts_and_n_make_choices_in_the_prompts_order(server: RunningServer) -> None:
    answer = complete(server, prompt=["one", "two"], n=2)
    singles = [
        complete(server, prompt=prompt, temperature=0)["choices"][0]["text"] for prompt in ("one", "two")
    ]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [answer["choices"][0]["text"], answer["choices"][2]["text"]] == singles
    assert answer["choices"][0]["text"] != answer["choices"][1]["text"]
    assert answer["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 48,
        "total_tokens": 54,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_stream_of_several_choices_carries_each_to_its_end(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], n=3, max_tokens=5, stream=True
    )
    ends = [chunk.choices[0].index for chunk in stream if chunk.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]


def test_token_ids_are_prompts_too(server: RunningServer) -> None:
    tokens = server.client.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    by_ids = complete(server, prompt=tokens)
    assert by_ids["choices"][0]["text"] == complete(server)["choices"][0]["text"]
    assert complete(server, prompt=[tokens, tokens])["usage"]["prompt_tokens"] == 2 * len(tokens)


def test_echo_with_logprobs_covers_prompt_and_answer(server: RunningServer) -> None:
    choice = complete(server, echo=True, logprobs=1)["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert len(logprobs["tokens"]) == len(PROMPT) + 12  # the tiny tokenizer has one token a letter
    assert logprobs["token_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    assert {len(logprobs[name]) for name in logprobs} == {len(PROMPT) + 12}
    assert "".join(logprobs["tokens"][: len(PROMPT)]) == PROMPT


def test_max_tokens_0_with_echo_gives_the_prompt_back(server: RunningServer) -> None:
    choice = complete(server, echo=True, max_tokens=0, logprobs=0)["choices"][0]
    assert choice["text"] == PROMPT
    assert len(choice["logprobs"]["tokens"]) == len(PROMPT)


def test_chat_logprobs_name_each_token_with_its_bytes(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=4,
        logprobs=True,
        top_logprobs=0,
        extra_body={"ignore_eos": True},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    assert all(bytes(entry.bytes or []).decode() == entry.token for entry in logprobs.content)


def test_tokenize_and_detokenize_are_each_others_inverse(server: RunningServer) -> None:
    found = server.client.post("/tokenize", json={"prompt": "Grüße, 世界", "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 4096
    back = server.client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "Grüße, 世界"}


def test_tokenize_renders_messages_by_the_chat_template(server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    tokens = server.client.post("/tokenize", json=body).json()["tokens"]
    text = server.client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == "user: hi\nassistant:"


def test_models_lists_every_served_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "alias"]
    assert client.models.retrieve("alias").id == "alias"


def test_metrics_count_what_was_served(server: RunningServer) -> None:
    before = server.metric("octavo_generation_tokens_total")
    complete(server)
    assert server.metric("octavo_generation_tokens_total") == before + 12
    assert server.metric("octavo_num_requests_running") == 0
    text = server.client.get("/metrics").text
    for name in (
        "time_to_first_token_seconds",
        "time_per_output_token_seconds",
        "e2e_request_latency_seconds",
    ):
        assert f'octavo_{name}_count{{model_name="tiny"}}' in text


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_leaves_frees_its_slot(server: RunningServer, stream: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    with httpx.Client(base_url=server.url) as leaving:
        request = leaving.build_request("POST", "/v1/completions", json=body)
        if stream:
            answer = leaving.send(request, stream=True)
            next(answer.iter_bytes())
            answer.close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json=body, timeout=0.05)
    until(lambda: server.metric("octavo_http_requests_active") == 0, seconds=2)
    until(lambda: server.metric("octavo_num_requests_running") == 0, seconds=2)
    assert server.metric("octavo_kv_cache_usage_ratio") == 0


def test_fields_nobody_knows_are_let_through(server: RunningServer) -> None:
    answer = complete(server, user="me", flavour="vanilla", tools=None, response_format={"type": "text"})
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_body_needs_no_content_type(server: RunningServer) -> None:
    answer = server.client.post(
        "/v1/completions", content=json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    )
    assert answer.status_code == 200


def test_variables_of_the_template_may_be_called_as_the_servers_own_are(server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    names = ("self", "serving", "messages_", "tokenizer", "variables")
    for path in ("/tokenize", "/v1/chat/completions"):
        answer = server.client.post(path, json={**body, "chat_template_kwargs": dict.fromkeys(names, 1)})
        assert answer.status_code == 200, answer.text


def test_a_text_of_any_length_may_be_counted_or_cut(server: RunningServer) -> None:
    long = "x" * 50_000
    assert server.client.post("/tokenize", json={"prompt": long}).json()["count"] == 50_000
    assert complete(server, prompt=long, truncate_prompt_tokens=10)["usage"]["prompt_tokens"] == 10
    messages = [{"role": "user", "content": long}]
    assert server.client.post("/tokenize", json={"messages": messages}).json()["count"] > 50_000
    body = {"messages": messages, "max_tokens": 1}
    cut = server.client.post("/v1/chat/completions", json={**body, "truncate_prompt_tokens": 10})
    assert cut.json()["usage"]["prompt_tokens"] == 10
    whole = server.client.post("/v1/chat/completions", json=body)
    assert whole.status_code == 400
    assert whole.json()["error"]["code"] == "context_length_exceeded"
    assert "characters, which are" in whole.json()["error"]["message"]
