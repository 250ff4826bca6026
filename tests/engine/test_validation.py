"""Ranges of sampling parameters and prompts; refusals name parameter and value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.validation import check_prompt, check_sampling_params

GOOD: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0, "top_k": -1},
    {"temperature": 5.0, "top_p": 0.001, "min_p": 1.0},
    {"n": 128, "seed": -(2**63), "max_tokens": None},
    {"logprobs": 20, "prompt_logprobs": 0, "logit_bias": {9: -100.0}, "stop_token_ids": (9,)},
    {"min_tokens": 16, "stop": ("a",) * 32},
]
BAD: list[tuple[str, Any, str]] = [
    ("n", 0, "not 0"),
    ("temperature", -0.1, "not -0.1"),
    ("temperature", math.nan, "not nan"),
    ("temperature", math.inf, "not inf"),
    ("top_p", 0.0, "above 0 and at most 1, not 0.0"),
    ("top_k", -2, "not -2"),
    ("min_p", 1.1, "between 0 and 1, not 1.1"),
    ("presence_penalty", 2.1, "between -2 and 2"),
    ("frequency_penalty", math.nan, "between -2 and 2"),
    ("repetition_penalty", 0.0, "between 0.01 and 100"),
    ("top_k", 2**31, "not 2147483648"),
    ("min_tokens", 2**31, "not 2147483648"),
    ("seed", 2**63, "64 bits"),
    ("max_tokens", 0, "at least 1 and at most 2147483647, not 0"),
    ("min_tokens", 17, "above max_tokens, which is 16"),
    ("logprobs", 21, "between 0 and 20, not 21"),
    ("stop", ("",), "none of them empty"),
    ("stop", ("a",) * 33, "at most 32 strings"),
    ("logit_bias", {5: 101.0}, "of token 5 must be between -100 and 100, not 101.0"),
    ("logit_bias", {10: 1.0}, "10, but the vocabulary ends at 9"),
    ("stop_token_ids", (-1,), "holds the token id -1"),
]


@pytest.mark.parametrize("fields", GOOD)
def test_parameters_within_their_ranges_pass(fields: dict[str, Any]) -> None:
    check_sampling_params(SamplingParams(**fields), vocab_size=10)
    assert SamplingParams(**fields).n >= 1


@pytest.mark.parametrize(
    ("param", "value", "words"), BAD, ids=[f"{name}={value}"[:40] for name, value, _ in BAD]
)
def test_a_parameter_out_of_range_is_named_with_its_value(param: str, value: Any, words: str) -> None:
    with pytest.raises(RequestError, match=param) as refusal:
        check_sampling_params(SamplingParams(**{param: value}), vocab_size=10)
    assert words in str(refusal.value)
    assert refusal.value.param == param
    assert refusal.value.status == 400


def test_a_prompt_that_fits_with_its_answer_passes() -> None:
    prompt = [1] * 90
    check_prompt(prompt, max_model_len=100, vocab_size=10, max_tokens=10)
    check_prompt([1] * 99, max_model_len=100)
    assert len(prompt) == 90


@pytest.mark.parametrize(
    ("length", "max_tokens", "param", "words"),
    [
        (91, 10, "max_tokens", "91 tokens and max_tokens asks for 10 more"),
        (100, None, "prompt", "100 tokens, but this model's maximum context length is 100"),
        (101, 1, "prompt", "101 tokens"),
        (0, None, "prompt", "empty"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(
    length: int, max_tokens: int | None, param: str, words: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        check_prompt([1] * length, max_model_len=100, vocab_size=10, max_tokens=max_tokens)
    assert words in str(refusal.value)
    assert refusal.value.param == param


def test_unknown_token_ids_in_a_prompt_are_refused() -> None:
    with pytest.raises(RequestError, match="token id 10, but the vocabulary ends at 9"):
        check_prompt([1, 10], max_model_len=100, vocab_size=10)
