"""Small models with random weights, made by transformers: the reference that the runner is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 96
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def _rope(kind: str, theta: float = 10000.0, **settings: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **settings}


_LLAMA3 = _rope(
    "llama3",
    500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": {},
    "llama3": {"num_key_value_heads": 2, "rope_parameters": _LLAMA3},
    "smollm2": {
        "hidden_size": 144,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "biased": {"attention_bias": True, "mlp_bias": True},
    "wide-head": {"head_dim": 32, "num_key_value_heads": 1},
    "linear": {"rope_parameters": _rope("linear", factor=4.0)},
    "dynamic": {"rope_parameters": _rope("dynamic", factor=4.0)},
    "yarn": {"rope_parameters": _rope("yarn", factor=4.0, original_max_position_embeddings=32)},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 9},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2-windowed": {
        "num_attention_heads": 6,
        "hidden_size": 96,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
    "qwen3": {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen3-windowed": {
        "head_dim": 16,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
_CONFIGS = {"mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def build(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model in float32 whose norms and biases are not trivial either."""
    torch.manual_seed(seed)
    settings = _SHAPE | FAMILIES[family] | changes
    config = _CONFIGS.get(family.split("-", maxsplit=1)[0], LlamaConfig)
    model = AutoModelForCausalLM.from_config(config(**settings, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(family: str, folder: Path, *, max_shard_size: str = "1GB", **changes: Any) -> Path:
    build(family, **changes).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def reference_logprobs(folder: Path, tokens: list[int], dtype: torch.dtype) -> NDArray[np.float64]:
    """[tokens, vocab] from transformers' own forward pass over the whole sequence at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0]
    found: NDArray[np.float64] = logits.double().log_softmax(-1).numpy()
    return found


def prompt(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, VOCAB, length)]
