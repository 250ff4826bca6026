"""Which families are known, by transformers' names of them and by llama.cpp's."""

from __future__ import annotations

from octavo_engine.errors import ModelError
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.models.family import CausalModel, Family
from octavo_engine.runner.models.llama import LLAMA
from octavo_engine.runner.models.mistral import MISTRAL
from octavo_engine.runner.models.qwen2 import QWEN2
from octavo_engine.runner.models.qwen3 import QWEN3

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)


def family_of(architecture: str) -> Family:
    """By the name in config.json. Raises :class:`ModelError` for an unknown one."""
    return _find(architecture, {family.architecture: family for family in FAMILIES}, "model's")


def gguf_family(architecture: str) -> Family:
    """By the name in a GGUF file. Raises :class:`ModelError` for an unknown one."""
    return _find(architecture, {family.gguf: family for family in FAMILIES if family.gguf}, "GGUF")


def build_model(config: DecoderConfig, ctx: LayerContext, max_model_len: int) -> CausalModel:
    """An uninitialized model on ``ctx.device``; its weights are loaded by way of ``weight_slots``."""
    return family_of(config.architecture).build(config, ctx, max_model_len)


def _find(name: str, families: dict[str, Family], whose: str) -> Family:
    if name not in families:
        known = ", ".join(sorted(families))
        raise ModelError(f"The {whose} architecture {name!r} is not known; known are {known}.")
    return families[name]
