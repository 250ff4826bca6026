"""Fills a model's parameters from a checkpoint, many tensors at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch

from octavo_engine.errors import ModelError
from octavo_engine.runner.weights.slots import WeightSlot, WeightSource

_MOST_THREADS = 16


def load_weights(slots: dict[str, WeightSlot], source: WeightSource) -> None:
    """Raises :class:`ModelError` naming a tensor that is missing or of the wrong shape."""
    missing = sorted(slots.keys() - source.names())
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} of {len(slots)} tensors, such as {missing[0]}; "
            "its weights do not belong to its config."
        )
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        largest_first = sorted(slots, key=lambda name: -slots[name].target.numel())
        list(pool.map(lambda name: _fill(name, slots[name], source), largest_first))


def _fill(name: str, slot: WeightSlot, source: WeightSource) -> None:
    with torch.inference_mode():
        values = source.read(name, slot.dim, slot.shard)
        if values.shape != slot.target.shape:
            raise ModelError(
                f"Tensor {name} of the checkpoint is {list(source.shape(name))}, and the model's config asks "
                f"for {list(slot.target.shape)} on this rank."
            )
        slot.target.copy_(values)
