"""A tokenizer built from the metadata of a GGUF file (`tokenizer.ggml.*`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from octavo_engine.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_SPACE = "\u2581"  # how SentencePiece writes a space

# How text is cut before the merges, by `tokenizer.ggml.pre`; the expressions were published with the models.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "llama-bpe": rf"{_LETTERS}\p{{N}}{{1,3}}{_REST}",
    "llama3": rf"{_LETTERS}\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_LETTERS}\p{{N}}{_REST}",
}
_LLAMA3 = ("llama-bpe", "llama3")


def tokenizer_from_gguf(metadata: dict[str, Any], name: str) -> Tokenizer:
    """The tokenizer that the header describes; ``name`` is used in error messages only.

    Errors: :class:`ModelError` when the kind of tokenizer is not known: guessing would yield wrong tokens.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata, name)
    elif kind == "llama":
        tokenizer = _sentence_piece(metadata)
    else:
        raise ModelError(f"{name} has a tokenizer of kind {kind!r}; the kinds gpt2 and llama can be used.")
    _add_special_tokens(tokenizer, metadata)
    _add_bos(tokenizer, metadata, default=kind == "llama" or metadata.get("tokenizer.ggml.pre") in _LLAMA3)
    return tokenizer


def _byte_level(metadata: dict[str, Any], name: str) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    merges = [_pair(merge) for merge in metadata["tokenizer.ggml.merges"]]
    model = models.BPE(vocab=_vocab(metadata), merges=merges, ignore_merges=pre in _LLAMA3)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre, name)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(pre: str, name: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in ("gpt-2", "default"):
        return byte_level
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if pre not in _SPLITS:
        known = ", ".join(["gpt-2", "smollm", *_SPLITS])
        raise ModelError(f"{name} cuts text as {pre!r}, which is not known; known are {known}.")
    split = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentence_piece(metadata: dict[str, Any]) -> Tokenizer:
    vocab = _vocab(metadata)
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    unknown = metadata["tokenizer.ggml.tokens"][metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    model = models.BPE(
        vocab=vocab, merges=_merges(vocab, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    joined: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*joined, decoders.Strip(" ", 1, 0)] if prefixed else joined)
    return tokenizer


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to split a piece into two pieces, best score first: SentencePiece keeps no list of merges."""
    splits = ((piece, left, right) for piece in vocab for left, right in _splits(piece, vocab))
    ordered = sorted(splits, key=lambda split: (-scores[vocab[split[0]]], vocab[split[1]], vocab[split[2]]))
    return [(left, right) for _, left, right in ordered]


def _splits(piece: str, vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(piece)):
        if piece[:at] in vocab and piece[at:] in vocab:
            yield piece[:at], piece[at:]


def _vocab(metadata: dict[str, Any]) -> dict[str, int]:
    return {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if merge[0] != " " else (merge[0], merge[2:])
    return left, right


def _add_special_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    typed = list(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    special = [AddedToken(text, special=True, normalized=False) for text, kind in typed if kind == _CONTROL]
    plain = [
        AddedToken(text, special=False, normalized=False) for text, kind in typed if kind == _USER_DEFINED
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_bos(tokenizer: Tokenizer, metadata: dict[str, Any], *, default: bool) -> None:
    bos_id = metadata.get("tokenizer.ggml.bos_token_id")
    if bos_id is None or not metadata.get("tokenizer.ggml.add_bos_token", default):
        return
    bos = metadata["tokenizer.ggml.tokens"][bos_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )
