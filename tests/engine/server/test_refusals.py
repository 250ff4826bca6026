"""An illegal request never reaches the device: here the first step of any request ends the engine core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.server.running_server import FAULTY, RunningServer, until

MESSAGES = [{"role": "user", "content": "hi"}]
BIG = 2**70

ILLEGAL: dict[str, dict[str, Any]] = {
    "no token": {"prompt": []},
    "an empty text among texts": {"prompt": ["a", ""]},
    "a prompt too long": {"prompt": [5] * 5000},
    "one prompt too long among several": {"prompt": [[5], [5] * 5000]},
    "no room for the answer": {"max_tokens": 4096},
    "a token id below 0": {"prompt": [-1]},
    "a token id beyond the vocabulary": {"prompt": [1000]},
    "a token id of 70 bits": {"prompt": [BIG]},
    "a fraction for a token id": {"prompt": [1.5]},
    "nested too deep": {"prompt": [[[1]]]},
    "n of 0": {"n": 0},
    "n of 70 bits": {"n": BIG},
    "more answers than places": {"n": 100},
    "a temperature below 0": {"temperature": -0.1},
    "a temperature of nothing": {"temperature": "0"},
    "top_p of 0": {"top_p": 0},
    "a top_k of 70 bits": {"top_k": BIG},
    "a top_k of 33 bits": {"top_k": 2**33},
    "min_p above 1": {"min_p": 1.01},
    "a penalty out of range": {"presence_penalty": -3},
    "a repetition penalty beyond reason": {"repetition_penalty": 1e-300},
    "a seed of 70 bits": {"seed": BIG},
    "max_tokens of 70 bits": {"max_tokens": BIG},
    "min_tokens above max_tokens": {"min_tokens": 5, "max_tokens": 4},
    "a bias of no token": {"logit_bias": {"x": 1}},
    "a bias beyond the vocabulary": {"logit_bias": {"1000": 1}},
    "a bias of a token of 70 bits": {"logit_bias": {str(BIG): 1}},
    "a bias out of range": {"logit_bias": {"5": 1e6}},
    "a stop id below 0": {"stop_token_ids": [-7]},
    "a stop id of 70 bits": {"stop_token_ids": [BIG]},
    "an empty stop": {"stop": [""]},
    "too many stops": {"stop": ["a"] * 33},
    "too many logprobs": {"logprobs": 21},
    "too many prompt logprobs": {"prompt_logprobs": 21},
    "a priority of 70 bits": {"priority": BIG},
    "a salt of another type": {"cache_salt": 5},
}


@pytest.fixture(scope="module")
def untouchable(tiny_model: Path) -> Iterator[RunningServer]:
    running = RunningServer(tiny_model, "--max-num-seqs", "64", runner=FAULTY)
    try:
        yield running.until_ready()
    finally:
        running.close()


@pytest.mark.parametrize("fields", ILLEGAL.values(), ids=ILLEGAL)
def test_it_is_refused_in_words_and_the_engine_goes_on(
    untouchable: RunningServer, fields: dict[str, Any]
) -> None:
    for stream in (False, True):
        answer = untouchable.client.post("/v1/completions", json={"prompt": "a", "stream": stream, **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].endswith(".")
    if "prompt" not in fields and "logprobs" not in fields:
        answer = untouchable.client.post("/v1/chat/completions", json={"messages": MESSAGES, **fields})
        assert answer.status_code == 400
    assert untouchable.health() == (200, "ok")


def test_a_legal_request_would_have_been_noticed(tiny_model: Path) -> None:
    running = RunningServer(tiny_model, runner=FAULTY).until_ready()
    try:
        answer = running.client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 503
        until(lambda: running.process.poll() is not None)
    finally:
        running.close()
