"""A folder with a tokenizer of 1,000 tokens and a config, enough for a server whose runner is a fake."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
VOCAB_SIZE = 1000
END = "<|end|>"  # id 0


def tiny_tokenizer() -> Tokenizer:
    """Byte-level: every text can be encoded, byte by byte; ids from 257 on are the words ' w0', ' w1' ..."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{number}" for number in range(VOCAB_SIZE - len(letters) - 1)]
    vocab = {token: index for index, token in enumerate([END, *letters, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer


def make_tiny_model(folder: Path) -> Path:
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": END, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder
