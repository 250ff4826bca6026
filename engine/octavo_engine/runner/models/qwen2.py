"""Qwen2 and Qwen2.5: biases on queries, keys and values; a window over the upper layers where switched on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.models.family import Family, with_layer_types


def _refine(config: DecoderConfig, raw: Mapping[str, Any]) -> DecoderConfig:
    return replace(with_layer_types(config, raw), qkv_bias=True)


QWEN2 = Family("Qwen2ForCausalLM", _refine, "qwen2")
