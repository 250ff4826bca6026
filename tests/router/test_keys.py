"""API keys: which are found, what they may take, and what changes while they are used."""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.errors import TokenRateError, WrongKeyError
from octavo_router.keys import Key, Keyring, KeySpec, TokenRate
from octavo_router.metrics import Figures, KeyFigures
from octavo_router.objects import KeySecret

ADA, BOB = b"sk-ada-0123456789", b"sk-bob-0123456789"


def spec(name: str, key: bytes, limit: int | None = None) -> KeySpec:
    return KeySpec(name, name.split("/", maxsplit=1)[0], sha256(key).digest(), limit)


def ring(*specs: KeySpec) -> tuple[Keyring, list[str]]:
    warnings: list[str] = []
    keyring = Keyring(Figures(), warnings.append)
    keyring.replace({"a/s": specs})
    return keyring, warnings


@pytest.mark.parametrize("header", [b"Bearer " + ADA, b"bearer " + ADA, b"Bearer  " + ADA + b" "])
def test_a_key_is_found_by_its_bearer(header: bytes) -> None:
    keyring, _ = ring(spec("a/s/ada", ADA), spec("a/s/bob", BOB))
    assert keyring.find(header).spec.name == "a/s/ada"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "no API key"),
        (b"", "no API key"),
        (b"Bearer ", "no API key"),
        (b"Basic " + ADA, "no API key"),
        (ADA, "no API key"),
        (b"Bearer " + ADA[:-1], "not known"),
        (b"Bearer " + ADA + b"0", "not known"),
        (b"Bearer \xff\xfe", "not known"),
    ],
)
def test_refused_is(header: bytes | None, words: str) -> None:
    keyring, _ = ring(spec("a/s/ada", ADA))
    with pytest.raises(WrongKeyError, match=words) as refused:
        keyring.find(header)
    assert ADA.decode() not in str(refused.value)


@given(st.binary(max_size=40))
def test_nothing_but_the_key_opens(given: bytes) -> None:
    keyring, _ = ring(spec("a/s/ada", ADA))
    if given.strip() != ADA:
        with pytest.raises(WrongKeyError):
            keyring.find(b"Bearer " + given)


def test_keys_come_and_go_with_their_secret_and_what_they_took_stays() -> None:
    keyring, _ = ring(spec("a/s/ada", ADA, 10))
    ada = keyring.find(b"Bearer " + ADA)
    ada.used(5, 20)
    keyring.replace({"a/t": [spec("a/t/bob", BOB)]})
    assert keyring.find(b"Bearer " + ADA) is ada
    keyring.replace({"a/s": [spec("a/s/ada", ADA, 99)]})
    assert keyring.find(b"Bearer " + ADA).figures is ada.figures
    keyring.replace({"a/s": []})
    with pytest.raises(WrongKeyError):
        keyring.find(b"Bearer " + ADA)
    assert keyring.find(b"Bearer " + BOB).spec.namespace == "a"


def test_of_two_that_are_the_same_the_first_by_name_counts_and_it_is_told() -> None:
    keyring, warnings = ring(spec("b/s/x", ADA), spec("a/s/x", ADA))
    assert keyring.find(b"Bearer " + ADA).spec.name == "a/s/x"
    assert warnings == ["The API key b/s/x is the same as a/s/x, which counts."]


def test_a_key_that_has_used_its_tokens_waits_for_just_so_long() -> None:
    key = Key(spec("a/s/ada", ADA, 60), KeyFigures("a/s/ada"))
    key.check_rate(100.0)
    key.used(30, 60)
    with pytest.raises(TokenRateError, match="its 60 tokens a minute; try again in 31 s") as refused:
        key.check_rate(100.0)
    assert refused.value.retry_after_s == 31
    key.check_rate(131.0)
    assert (key.figures.refused, key.figures.prompt_tokens, key.figures.completion_tokens) == (1, 30, 60)


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 30), st.integers(0, 400)), max_size=50))
def test_over_time_no_more_goes_than_the_limit_a_burst_and_the_last_request(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    rate, now, spent, largest = TokenRate(limit), 1000.0, 0, 0
    rate.wait_s(now)
    for wait, tokens in steps:
        now += wait
        if not rate.wait_s(now):
            rate.spend(tokens)
            spent, largest = spent + tokens, max(largest, tokens)
    assert spent <= limit + limit / 60 * (now - 1000) + largest + 1e-6


def secret(data: dict[str, bytes], **annotations: str) -> KeySecret:
    meta = {"name": "s", "namespace": "a"}
    if annotations:
        meta |= {"annotations": {"octavo.dev/tokens-per-minute": annotations["limit"]}}  # type: ignore[dict-item]
    encoded = {name: base64.b64encode(key).decode() for name, key in data.items()}
    return msgspec.convert({"metadata": meta, "data": encoded}, KeySecret)


def test_a_secrets_entries_are_keys_and_a_newline_at_the_end_is_none_of_theirs() -> None:
    keys = secret({"ada": ADA + b"\n", "bob": BOB}, limit="500").keys(pytest.fail)
    assert keys == (spec("a/s/ada", ADA, 500), spec("a/s/bob", BOB, 500))


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", "", "²"])
def test_a_limit_that_cannot_be_read_is_not_taken_for_none(limit: str) -> None:
    warnings: list[str] = []
    assert secret({"ada": ADA}, limit=limit).keys(warnings.append) == ()
    assert f"is {limit!r}; make it a whole number" in warnings[0]


@pytest.mark.parametrize("digits", [16, 310, 5000])
def test_a_limit_too_great_to_count_with_is_refused_in_a_short_sentence(digits: int) -> None:
    warnings: list[str] = []
    assert secret({"ada": ADA}, limit="9" * digits).keys(warnings.append) == ()
    assert "make it a whole number from 1 to 999999999999999, or remove it." in warnings[0]
    assert len(warnings[0]) < 250
    (greatest,) = secret({"ada": ADA}, limit="9" * 15).keys(pytest.fail)
    Key(greatest, KeyFigures("a/s/ada")).check_rate(100.0)


def test_a_short_key_is_not_accepted_and_not_told() -> None:
    warnings: list[Any] = []
    assert secret({"ada": b"short"}).keys(warnings.append) == ()
    assert warnings == ["The API key a/s/ada is not accepted: it has 5 characters; use at least 16."]
