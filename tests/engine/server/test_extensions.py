"""What the server understands beyond OpenAI's API, over a fake model."""

from __future__ import annotations

import json
from typing import Any

from tests.engine.server.running_server import RunningServer

PROMPT = "What is a book?"
CHAT = {"messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}


def complete(server: RunningServer, **fields: Any) -> dict[str, Any]:
    body = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, **fields}
    return ask(server, "/v1/completions", body)


def ask(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def streamed(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = server.client.post(path, json={**body, "stream": True}).text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def test_prompt_logprobs_tell_each_token_of_the_prompt(server: RunningServer) -> None:
    choice = complete(server, prompt="book", prompt_logprobs=1)["choices"][0]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert ["".join(entry["decoded_token"] for entry in position.values())[0] for position in others] == [
        *"ook"
    ]
    assert all(entry["rank"] >= 1 for position in others for entry in position.values())
    answer = ask(server, "/v1/chat/completions", {**CHAT, "max_tokens": 1, "prompt_logprobs": 0})
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


def test_max_completion_tokens_counts_before_its_old_name(server: RunningServer) -> None:
    answer = ask(server, "/v1/chat/completions", {**CHAT, "max_tokens": 9, "max_completion_tokens": 4})
    assert answer["usage"]["completion_tokens"] == 4


def test_the_usage_so_far_is_in_every_chunk_when_asked_for(server: RunningServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": PROMPT, "max_tokens": 6, "ignore_eos": True, "stream_options": options}
    chunks = streamed(server, "/v1/completions", body)
    told = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert told == sorted(told)
    assert told[0] >= 1
    assert told[-1] == 6


def test_a_shortened_prompt_is_its_last_tokens(server: RunningServer) -> None:
    long = complete(server, prompt="an old " + PROMPT, truncate_prompt_tokens=len(PROMPT), echo=True)
    assert long["choices"][0]["text"] == complete(server, echo=True)["choices"][0]["text"]
    assert long["usage"]["prompt_tokens"] == len(PROMPT)
    fits = complete(server, prompt="x" * 5000, truncate_prompt_tokens=-1)
    assert fits["usage"]["total_tokens"] == 4096


def test_a_continued_message_is_left_open(server: RunningServer) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi, "}]
    body = {"messages": messages, "continue_final_message": True}
    tokens = ask(server, "/tokenize", body)["tokens"]
    assert ask(server, "/detokenize", {"tokens": tokens})["prompt"] == "user: hi\nassistant: hi,"
    answer = ask(server, "/v1/chat/completions", {**CHAT, **body, "max_tokens": 2})
    assert answer["usage"]["prompt_tokens"] == len(tokens)


def test_a_completion_tells_its_token_ids_whole_and_streamed(server: RunningServer) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 5, "ignore_eos": True, "n": 2, "return_token_ids": True}
    prompt = ask(server, "/tokenize", {"prompt": PROMPT})["tokens"]
    whole = ask(server, "/v1/completions", asked)["choices"]
    assert [choice["prompt_token_ids"] for choice in whole] == [prompt] * 2
    assert [len(choice["token_ids"]) for choice in whole] == [5, 5]
    chunks = [chunk["choices"][0] for chunk in streamed(server, "/v1/completions", asked)]
    for index in (0, 1):
        of_choice = [chunk for chunk in chunks if chunk["index"] == index]
        assert sum(len(chunk["token_ids"]) for chunk in of_choice) == 5
        assert ["prompt_token_ids" in chunk for chunk in of_choice] == [True] + [False] * (len(of_choice) - 1)


def test_a_chat_tells_its_token_ids_whole_and_streamed(server: RunningServer) -> None:
    asked = {**CHAT, "max_tokens": 5, "temperature": 0, "return_token_ids": True}
    prompt = ask(server, "/tokenize", {"messages": CHAT["messages"]})["tokens"]
    whole = ask(server, "/v1/chat/completions", asked)
    assert whole["prompt_token_ids"] == prompt
    chunks = streamed(server, "/v1/chat/completions", asked)
    assert [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk] == [prompt]
    told = [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])]
    assert told == whole["choices"][0]["token_ids"]
    assert len(told) == 5
