"""Fills a model's parameters from a checkpoint, many tensors at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch

from octavo_engine.errors import ModelError
from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.weights.fp8 import fill_fp8
from octavo_engine.runner.weights.slots import WeightSlot, WeightSource

_MOST_THREADS = 16


def load_weights(slots: dict[str, WeightSlot], source: WeightSource) -> None:
    """Raises :class:`ModelError` naming a tensor that is missing or of the wrong shape."""
    slots = _found(slots, source.names())
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        largest_first = sorted(slots, key=lambda name: -slots[name].target.numel())
        list(pool.map(lambda name: _fill(name, slots[name], source), largest_first))


def _found(slots: dict[str, WeightSlot], names: frozenset[str]) -> dict[str, WeightSlot]:
    """The slots by the checkpoint's names, without those optional ones that it lacks."""
    needed = {name: slot for name, slot in slots.items() if not slot.optional}
    missing = sorted(needed.keys() - names)
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} of {len(needed)} tensors, such as {missing[0]}; "
            "its weights do not belong to its config."
        )
    present = {name: slot for slot in slots.values() for name in [n for n in slot.optional if n in names][:1]}
    return needed | present


def _fill(name: str, slot: WeightSlot, source: WeightSource) -> None:
    with torch.inference_mode():
        values = source.read(name, slot.dim, slot.shard)
        if values.numel() == slot.target.numel() == 1:
            values = values.reshape(slot.target.shape)
        if values.shape != slot.target.shape:
            raise ModelError(
                f"Tensor {name} of the checkpoint is {list(source.shape(name))}, and the model's config asks "
                f"for {list(slot.target.shape)} on this rank."
            )
        if slot.fp8 is not None:
            fill_fp8(name, slot, slot.fp8, values, source)
        elif values.dtype is FP8:
            raise ModelError(
                f"Tensor {name} of the checkpoint is in FP8, and the quantization_config of its config.json "
                "does not say so; complete the config."
            )
        else:
            slot.target.copy_(values)
