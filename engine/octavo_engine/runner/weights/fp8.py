"""Weights in FP8: read with their scales, or quantized while they are loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.runner.kernels.fp8 import FP8, scale_of, to_fp8
from octavo_engine.runner.weights.slots import Fp8Slot, WeightSlot, WeightSource

_WEIGHT_SCALES = ("weight_scale", "weight_scale_inv")  # both multiply
_INPUT_SCALES = ("input_scale", "activation_scale")
_AT_ONCE = 1 << 24  # numbers that are widened to float32 at once


def fill_fp8(name: str, slot: WeightSlot, fp8: Fp8Slot, values: Tensor, source: WeightSource) -> None:
    """``values`` are what ``slot`` wants of the tensor ``name``. Raises :class:`ModelError`."""
    if values.dtype is FP8:
        slot.target.copy_(values)
        fp8.scales.copy_(_row_scales(name, slot, source))
    elif values.dtype.itemsize == 1:
        raise ModelError(f"Tensor {name} of the checkpoint is {values.dtype}; of FP8, only e4m3 is known.")
    else:
        quantize_into(slot.target, fp8, values)
    if fp8.input_scale is not None:
        fp8.input_scale.copy_(_scale(name, _INPUT_SCALES, source).max())


def quantize_into(target: Tensor, fp8: Fp8Slot, values: Tensor) -> None:
    """Scale and round ``values`` [rows, inner] on the target's device, some rows at a time."""
    rows = max(1, _AT_ONCE // values.shape[1])
    parts = [slice(begin, begin + rows) for begin in range(0, values.shape[0], rows)]
    moved = values.to(target.device)
    for part in parts:
        fp8.scales[part] = scale_of(moved[part].float().abs().amax(dim=-1))
    if fp8.per_tensor:
        fp8.scales.copy_(fp8.scales.max().expand_as(fp8.scales).clone())
    for part in parts:
        target[part] = to_fp8(moved[part].float() / fp8.scales[part, None])


def _row_scales(name: str, slot: WeightSlot, source: WeightSource) -> Tensor:
    """[rows] of this rank's part, from a scale of the whole tensor or one of each row."""
    found, rows = _scale(name, _WEIGHT_SCALES, source).flatten(), source.shape(name)[0]
    if found.numel() == 1:
        return found.expand(slot.target.shape[0])
    if found.numel() != rows:
        raise ModelError(
            f"Tensor {name} of the checkpoint has {rows} rows and {found.numel()} scales; known are one "
            "scale for the tensor and one for each row."
        )
    if slot.shard is None or slot.dim != 0:
        return found
    return found.narrow(0, slot.shard.start, slot.shard.length)


def _scale(name: str, kinds: tuple[str, ...], source: WeightSource) -> Tensor:
    module = name.removesuffix("weight")
    present = [module + kind for kind in kinds if module + kind in source.names()]
    if not present:
        raise ModelError(
            f"The checkpoint holds {name} in FP8 and lacks its scale, {module}{kinds[0]}; it is not whole."
        )
    return source.read(present[0], 0, None).to(torch.float32)
