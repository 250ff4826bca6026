"""What a layer wants from a checkpoint: which slice of which tensor goes into which part of its parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """``length`` rows or columns from ``start``: one rank's part of a checkpoint tensor's dimension."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Fp8Slot:
    """What belongs to a weight in FP8. ``scales`` [rows] float32; ``per_tensor``: one value for all of them
    when the weight is quantized at load; ``input_scale`` [1] of static activations, from the checkpoint."""

    scales: Tensor
    input_scale: Tensor | None = None
    per_tensor: bool = False


@dataclass(frozen=True, slots=True)
class WeightSlot:
    """``target`` takes a checkpoint tensor's ``shard`` along ``dim`` (None: the whole tensor).

    ``optional``: the names under which checkpoints may have it; without any, the target stays as it is.
    """

    target: Tensor
    dim: int = 0
    shard: Shard | None = None
    fp8: Fp8Slot | None = None
    optional: tuple[str, ...] = ()


class WeightSource(Protocol):
    """A checkpoint. ``read`` may be called from several threads at once."""

    def names(self) -> frozenset[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        """The tensor, or only its ``shard`` along ``dim``, in any floating dtype."""
        ...
