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
class WeightSlot:
    """``target`` takes a checkpoint tensor's ``shard`` along ``dim`` (None: the whole tensor)."""

    target: Tensor
    dim: int = 0
    shard: Shard | None = None


class WeightSource(Protocol):
    """A checkpoint. ``read`` may be called from several threads at once."""

    def names(self) -> frozenset[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        """The tensor, or only its ``shard`` along ``dim``, in any floating dtype."""
        ...
