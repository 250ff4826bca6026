"""What a model family is: its name in configs, how it reads them, and the model that serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.inputs import ForwardInputs
from octavo_engine.runner.kv_cache import LayerCache
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.models.decoder import DecoderModel
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


@dataclass(frozen=True, slots=True)
class Family:
    """``architecture`` is transformers' name, ``gguf`` llama.cpp's where it has one of its own.

    ``refine`` adds to what all families spell alike in config.json what this one spells its own way;
    KeyError, TypeError and ValueError mean that the config is unsound. ``interleaved``: GGUF files hold the
    query and key projections in llama.cpp's order of rows.
    """

    architecture: str
    refine: Callable[[DecoderConfig, Mapping[str, Any]], DecoderConfig]
    gguf: str | None = None
    interleaved: bool = False
    build: Callable[[DecoderConfig, LayerContext, int], CausalModel] = DecoderModel


def with_window(config: DecoderConfig, window: int | None) -> DecoderConfig:
    """``config`` with one sliding window for all layers."""
    if window is None:
        return config
    return replace(config, layer_windows=(positive(window),) * config.num_layers)


def with_layer_types(config: DecoderConfig, raw: Mapping[str, Any]) -> DecoderConfig:
    """Windows as Qwen's configs have them: switched on by one setting, given to some layers by another."""
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    if window is None:
        return config
    first = int(raw.get("max_window_layers", 28))
    kinds = raw.get("layer_types") or [
        "full_attention" if index < first else "sliding_attention" for index in range(config.num_layers)
    ]
    if len(kinds) != config.num_layers or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types: {kinds}")
    sliding = positive(window)
    return replace(
        config, layer_windows=tuple(sliding if kind == "sliding_attention" else None for kind in kinds)
    )


def positive(window: object) -> int:
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"sliding_window: {window!r}")
    return window
