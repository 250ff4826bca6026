"""`octavo-engine serve` with the embedded model, asked as users ask it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tests.engine.server.running_server import RunningServer

pytestmark = pytest.mark.model
MESSAGES: list[openai.types.chat.ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one word."}
]


@pytest.fixture(scope="module")
def embedded() -> Iterator[RunningServer]:
    running = RunningServer(None, "--kv-cache-memory-bytes", "256M")
    try:
        yield running.until_ready()
    finally:
        running.close()


@pytest.fixture
def client(embedded: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=embedded.url + "/v1", api_key="none", max_retries=0)


def test_a_greedy_chat_is_sensible_and_streams_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=24)
    chunks = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_tokens=24, stream=True
    )
    text = whole.choices[0].message.content or ""
    assert "Paris" in text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_logprobs_of_a_greedy_completion_rank_the_chosen_token_first(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="The capital of France is", temperature=0, max_tokens=3, logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.tokens[0] == " Paris"
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs or [], logprobs.top_logprobs or [], strict=True
    ):
        assert max(top, key=lambda name: top[name]) == token
        assert top[token] == logprob < 0


def test_the_prefix_cache_serves_a_prompt_that_comes_again(
    client: openai.OpenAI, embedded: RunningServer
) -> None:
    prompt = "A long and winding road leads to the house. " * 12
    for _ in range(2):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=8, temperature=0, n=2)
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert 96 <= (usage.prompt_tokens_details.cached_tokens or 0) < usage.prompt_tokens
    assert embedded.metric("octavo_prefix_cache_hits_total") >= 96
