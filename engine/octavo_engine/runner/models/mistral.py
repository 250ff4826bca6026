"""Mistral: Llama with a sliding window over all layers (Jiang et al. 2023). Its GGUF files say llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.models.family import Family, with_window


def _refine(config: DecoderConfig, raw: Mapping[str, Any]) -> DecoderConfig:
    return with_window(config, raw.get("sliding_window"))


MISTRAL = Family("MistralForCausalLM", _refine)
