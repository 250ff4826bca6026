"""What config.json says, read without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelError
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.weights.checkpoint import open_checkpoint

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "sliding_window": 16,
    "max_window_layers": 3,
}
MISTRAL = {**QWEN2, "architectures": ["MistralForCausalLM"]}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"]}
LAYERS = ["full_attention", "sliding_attention"] * 2


def read(folder: Path, config: dict[str, Any]) -> DecoderConfig:
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(ModelConfig(source=str(folder), load_format="dummy")).config


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        pytest.param(QWEN2, (None,) * 4, id="off unless switched on"),
        pytest.param({**QWEN2, "use_sliding_window": True}, (None, None, None, 16), id="the upper layers"),
        pytest.param(
            {**QWEN3, "use_sliding_window": True, "layer_types": LAYERS},
            (None, 16, None, 16),
            id="the layers that are named",
        ),
        pytest.param(MISTRAL, (16,) * 4, id="Mistral: all layers"),
        pytest.param({**MISTRAL, "sliding_window": None}, (None,) * 4, id="Mistral without"),
    ],
)
def test_sliding_windows(config: dict[str, Any], windows: tuple[int | None, ...], tmp_path: Path) -> None:
    found = read(tmp_path, config)
    assert tuple(found.window_of(layer) for layer in range(4)) == windows
    assert set(found.windows) == set(windows)


def test_a_familys_own_settings(tmp_path: Path) -> None:
    qwen2, qwen3 = read(tmp_path, QWEN2), read(tmp_path, QWEN3)
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm, qwen2.head_dim) == (True, False, False, 16)
    assert (qwen3.qkv_bias, qwen3.output_bias, qwen3.qk_norm, qwen3.head_dim) == (False, False, True, 128)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "'GemmaForCausalLM' is not known; known are Llama",
        ),
        ({"hidden_act": "relu"}, "lacks or misstates the setting 'relu'"),
        ({"hidden_size": None}, "lacks or misstates the setting"),
        ({"num_key_value_heads": 3}, "4 query heads of 16 values cannot share 3 KV heads"),
        ({"num_key_value_heads": 8}, "4 query heads of 16 values cannot share 8 KV heads"),
        ({"head_dim": 15}, "4 query heads of 15 values"),
        ({"use_sliding_window": True, "sliding_window": 0}, "misstates the setting sliding_window: 0"),
        ({"use_sliding_window": True, "layer_types": LAYERS[:3]}, "misstates the setting layer_types"),
        ({"use_sliding_window": True, "layer_types": ["linear"] * 4}, "misstates the setting layer_types"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_unsound_config_is_refused_with_a_sentence(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        read(tmp_path, {**QWEN2, **change})
