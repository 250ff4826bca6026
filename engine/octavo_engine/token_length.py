"""How much text a token can stand for: a bound by which a text is too long before it is tokenized."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import tokenizers
from tokenizers import models, pre_tokenizers

_COMPOSED = 4  # characters at most that Unicode composes into one
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_CUTTING = {
    "ByteLevel",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Split",
}  # lose nothing, but for Split "Removed"


class TokenLength(NamedTuple):
    longest: int  # characters of a text that one token stands for at most
    lost: str = ""  # characters that no token stands for: they are left out

    def fewest_tokens(self, text: str) -> int:
        """Tokens that ``text`` has at least."""
        kept = len(text) - sum(text.count(character) for character in self.lost)
        return -(-kept // self.longest)


def token_length(tokenizer: tokenizers.Tokenizer) -> TokenLength | None:
    """None where other text may be lost or a token may stand for any length of it.

    Unless each step is known to keep all characters, no text is too long.
    """
    lost, composed = _lost(tokenizer), _composed(tokenizer)
    added = tokenizer.get_added_tokens_decoder().values()
    if lost is None or composed is None or tokenizer.truncation is not None or not _cuts_only(tokenizer):
        return None
    if any(token.lstrip or token.rstrip for token in added):
        return None  # all spaces beside such a token are part of it
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)))
    normalizer = tokenizer.normalizer
    if normalizer is not None:  # added tokens may be looked for in this form
        longest = max([longest, *(len(normalizer.normalize_str(token.content)) for token in added)])
    return TokenLength(longest * composed, lost)


def _cuts_only(tokenizer: tokenizers.Tokenizer) -> bool:
    steps = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    return all(step["type"] in _CUTTING and step.get("behavior") != "Removed" for step in steps)


def _lost(tokenizer: tokenizers.Tokenizer) -> str | None:
    """The characters that the model has no token for; None when others are lost or fused too."""
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    if any(step["type"] == "ByteLevel" for step in _steps(tokenizer.pre_tokenizer, "pretokenizers")):
        lost = "".join(character for character in map(chr, range(128)) if _letters(character) not in vocab)
        # every character beyond these has such a byte at its end
        kept = all(_letters(character)[-1] in vocab for character in map(chr, range(128, 192)))
        known = kept and (not lost or (model.unk_token is None and tokenizer.normalizer is None))
        return lost if known else None
    known = model.byte_fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    return "" if known else None


def _letters(character: str) -> str:
    """How a byte-level vocabulary spells a character: a letter for each byte."""
    return "".join(letters for letters, _ in _BYTES.pre_tokenize_str(character))


def _composed(tokenizer: tokenizers.Tokenizer) -> int | None:
    """Characters that the normalizer makes one of at most; None when that is not known."""
    most = 1
    for step in _steps(tokenizer.normalizer, "normalizers"):
        if step["type"] in ("NFC", "NFKC"):
            most *= _COMPOSED
        elif step["type"] == "Replace":
            replaced = step["pattern"].get("String")  # None for an expression, which may match any length
            if replaced is None or len(step["content"]) < len(replaced):
                return None
        elif step["type"] not in ("NFD", "NFKD", "Prepend"):
            return None
    return most


def _steps(part: Any, name: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be sequences of sequences."""
    todo = [] if part is None else [json.loads(part.__getstate__())]
    while todo:
        step = todo.pop()
        if step["type"] == "Sequence":
            todo += step[name]
        else:
            yield step
