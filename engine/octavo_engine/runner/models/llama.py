"""Llama 2 and 3.x, SmolLM and SmolLM2, and what else calls itself Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.models.family import Family


def _refine(config: DecoderConfig, raw: Mapping[str, Any]) -> DecoderConfig:
    attention, mlp = bool(raw.get("attention_bias")), bool(raw.get("mlp_bias"))
    return replace(config, qkv_bias=attention, output_bias=attention, mlp_bias=mlp)


LLAMA = Family("LlamaForCausalLM", _refine, "llama", interleaved=True)
