"""A model folder of Llama 3.1 8B's shape without weights, with a tokenizer of as many tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB = 128256
END = 128001
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "torch_dtype": "bfloat16",
    "eos_token_id": [128001, 128008, 128009],
}


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B))


def write_model(folder: Path) -> None:
    """Config and tokenizer; the weights are the engine's ``--load-format dummy``."""
    write_config(folder)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def byte_level_tokenizer() -> Tokenizer:
    """Every byte, then words of one to three syllables, most of them after a space."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(letters)}
    number = 0
    while len(vocab) < VOCAB:
        word = ("Ġ" if number % 4 else "") + _word(number)
        vocab.setdefault(word, len(vocab))
        number += 1
    swapped = next(token for token, index in vocab.items() if index == END)
    del vocab[swapped]
    tokenizer = Tokenizer(models.BPE(vocab={**vocab, "<|end|>": END}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return tokenizer


def _word(number: int) -> str:
    syllables = ""
    while True:
        number, rest = divmod(number, 105)
        syllables += "bcdfghjklmnprstvwxzqy"[rest // 5] + "aeiou"[rest % 5]
        if not number:
            return syllables
