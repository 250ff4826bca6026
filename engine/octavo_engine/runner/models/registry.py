"""Which architectures are known, and the model that serves each."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.inputs import ForwardInputs
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.models.llama import LayerCache, LlamaModel
from octavo_engine.runner.weights.slots import WeightSlot


class CausalModel(Protocol):
    """What the runner needs of a model."""

    def __call__(self, inputs: ForwardInputs, caches: list[LayerCache]) -> Tensor: ...
    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [n, hidden] -> logits [n, vocab] in the model's dtype."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """The same in float32."""
        ...

    def weight_slots(self) -> dict[str, WeightSlot]: ...


ARCHITECTURES = {"LlamaForCausalLM": LlamaModel, "MistralForCausalLM": LlamaModel}


def check_architecture(name: str) -> None:
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"The model's architecture {name!r} is not known; known are {known}.")


def build_model(config: DecoderConfig, ctx: LayerContext, max_model_len: int) -> CausalModel:
    """An uninitialized model on ``ctx.device``; its weights are loaded by way of ``weight_slots``."""
    check_architecture(config.architecture)
    return ARCHITECTURES[config.architecture](config, ctx, max_model_len)
