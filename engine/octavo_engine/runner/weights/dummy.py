"""Random weights of any model's shape, for benchmarks (``--load-format dummy``)."""

from __future__ import annotations

import torch

from octavo_engine.runner.weights.slots import WeightSlot


def fill_randomly(slots: dict[str, WeightSlot], seed: int) -> None:
    """Norms become 1, everything else normal with a deviation of 0.02: activations stay finite."""
    for index, slot in enumerate(slots.values()):
        generator = torch.Generator(slot.target.device).manual_seed(seed + index)
        if slot.target.dim() == 1:
            slot.target.fill_(1.0)
        else:
            slot.target.normal_(0.0, 0.02, generator=generator)
