"""The scales of a layer's keys and values in a KV cache in FP8."""

from __future__ import annotations

import torch

from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import WeightSlot

# Where checkpoints keep them, below the attention's name.
_KEYS = ("k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale")
_VALUES = ("v_scale", "attn.v_scale", "v_proj.v_scale", "v_proj.output_scale")


class CacheScales:
    """One number for all keys of the layer and one for all values; 1 where the checkpoint has none.

    They lie in host memory: kernels take them as arguments, which a captured graph keeps.
    """

    def __init__(self, ctx: LayerContext) -> None:
        self._used = ctx.cache_dtype is not None
        self._keys, self._values = torch.ones(2, 1).unbind()

    @property
    def keys(self) -> float:
        return float(self._keys)

    @property
    def values(self) -> float:
        return float(self._values)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        if not self._used:
            return {}
        found = {"k_scale": (self._keys, _KEYS), "v_scale": (self._values, _VALUES)}
        return {
            f"{name}.{kind}": WeightSlot(target, optional=tuple(f"{name}.{place}" for place in places))
            for kind, (target, places) in found.items()
        }
