"""Text from tokens as they arrive: the same text however the tokens are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.server.tiny_model import tiny_tokenizer

from octavo_engine.detokenizer import IncrementalDetokenizer
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.tokenizer import Tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer())
TEXT = "Grüße, 世界! 🦄🦄 ok"
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def _run(
    token_ids: list[int], params: SamplingParams, cuts: Sequence[int] = ()
) -> tuple[str, IncrementalDetokenizer]:
    """Push in pieces that end at ``cuts``, then finish."""
    detokenizer = IncrementalDetokenizer(TOKENIZER, params)
    borders = [0, *sorted(set(cuts)), len(token_ids)]
    pieces = [detokenizer.push(token_ids[a:b]) for a, b in pairwise(borders)]
    return "".join([*pieces, detokenizer.finish()]), detokenizer


def _one_by_one(token_ids: list[int]) -> list[int]:
    return list(range(len(token_ids)))


@given(st.text(max_size=30))
def test_deltas_make_up_the_text_and_never_split_a_character(text: str) -> None:
    token_ids = TOKENIZER.encode(text)
    detokenizer = IncrementalDetokenizer(TOKENIZER, SamplingParams())
    deltas = [detokenizer.push([token_id]) for token_id in token_ids] + [detokenizer.finish()]
    assert "".join(deltas) == text == detokenizer.text
    assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas)


@given(text=st.text("abc", max_size=20), stops=STOPS, cuts=st.lists(st.integers(0, 20), max_size=8))
def test_stop_strings_end_the_text_at_the_same_place_however_it_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    token_ids = TOKENIZER.encode(text)
    params = SamplingParams(stop=tuple(stops))
    cut, by_cut = _run(token_ids, params, [at for at in cuts if at <= len(token_ids)])
    single, by_single = _run(token_ids, params, _one_by_one(token_ids))
    assert (cut, by_cut.stopped_by) == (single, by_single.stopped_by)
    assert not any(stop in cut for stop in stops)
    assert by_cut.stopped_by is not None or cut == text


def test_a_stop_string_across_tokens_is_withheld_until_it_is_certain() -> None:
    detokenizer = IncrementalDetokenizer(TOKENIZER, SamplingParams(stop=("END",)))
    deltas = [detokenizer.push([token_id]) for token_id in TOKENIZER.encode("xENyEND!")]
    assert deltas == ["x", "", "", "ENy", "", "", "", ""]
    assert detokenizer.stopped_by == "END"
    assert detokenizer.finish() == ""


def test_withheld_text_comes_out_at_the_end() -> None:
    detokenizer = IncrementalDetokenizer(TOKENIZER, SamplingParams(stop=("END",)))
    assert detokenizer.push(TOKENIZER.encode("xEN")) == "x"
    assert detokenizer.finish() == "EN"


@pytest.mark.parametrize(("include", "expected"), [(True, "xEND"), (False, "x")])
def test_the_stop_string_itself_is_kept_only_when_asked(include: bool, expected: str) -> None:
    params = SamplingParams(stop=("END",), include_stop_str_in_output=include)
    assert _run(TOKENIZER.encode("xENDy"), params)[0] == expected


def test_a_stop_string_before_min_tokens_does_not_count() -> None:
    params = SamplingParams(stop=("b",), min_tokens=3)
    assert _run(TOKENIZER.encode("abcabc"), params)[0] == "abca"


def test_the_token_that_ended_the_sequence_leaves_no_text() -> None:
    detokenizer = IncrementalDetokenizer(TOKENIZER, SamplingParams())
    token_ids = TOKENIZER.encode("ab")
    assert detokenizer.push(token_ids, stop_token_id=token_ids[-1]) == "a"


def test_half_a_character_at_the_end_becomes_a_replacement_character() -> None:
    token_ids = TOKENIZER.encode("a🦄")[:-1]
    assert _run(token_ids, SamplingParams(), _one_by_one(token_ids))[0] == "a\ufffd"


def test_bytes_that_never_make_a_character_do_not_hold_the_text_up_for_ever() -> None:
    (broken, *_) = TOKENIZER.encode("世")
    detokenizer = IncrementalDetokenizer(TOKENIZER, SamplingParams())
    deltas = [detokenizer.push([broken]) for _ in range(40)]
    assert sum(bool(delta) for delta in deltas) >= 2


def test_special_tokens_are_skipped_unless_asked_for() -> None:
    token_ids = [*TOKENIZER.encode("a"), 0, *TOKENIZER.encode("b")]
    assert _run(token_ids, SamplingParams())[0] == "ab"
    assert _run(token_ids, SamplingParams(skip_special_tokens=False))[0] == "a<|end|>b"
