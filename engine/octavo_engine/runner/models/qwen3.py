"""Qwen3: queries and keys are normed over the head, whose size does not follow from the hidden size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.models.family import Family, with_layer_types


def _refine(config: DecoderConfig, raw: Mapping[str, Any]) -> DecoderConfig:
    bias = bool(raw.get("attention_bias"))
    return replace(
        with_layer_types(config, raw),
        head_dim=int(raw.get("head_dim", 128)),
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )


QWEN3 = Family("Qwen3ForCausalLM", _refine, "qwen3")
