"""Random weights of any model's shape, for benchmarks (``--load-format dummy``)."""

from __future__ import annotations

import torch

from octavo_engine.runner.weights.fp8 import quantize_into
from octavo_engine.runner.weights.slots import WeightSlot


def fill_randomly(slots: dict[str, WeightSlot], seed: int) -> None:
    """Norms become 1, everything else normal with a deviation of 0.02: activations stay finite."""
    for index, slot in enumerate(slots.values()):
        generator = torch.Generator(slot.target.device).manual_seed(seed + index)
        if slot.fp8 is not None:
            shape, device = slot.target.shape, slot.target.device
            quantize_into(
                slot.target,
                slot.fp8,
                torch.empty(shape, device=device).normal_(0.0, 0.02, generator=generator),
            )
            if slot.fp8.input_scale is not None:
                slot.fp8.input_scale.fill_(0.02)
        elif slot.target.dim() == 1:
            slot.target.fill_(1.0)
        else:
            slot.target.normal_(0.0, 0.02, generator=generator)
