"""The paged KV cache of one rank.

Layout: one tensor [layers, 2 (key, value), blocks, block_size, kv_heads, head_dim]. A layer's keys are a
contiguous [blocks, block_size, kv_heads, head_dim], which is what paged attention kernels read; a block of
all layers moves with one indexed copy. One block more than asked for holds zeros for ever: padding points
there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from octavo_engine.runner.kernels.cache import copy_blocks
from octavo_engine.runner.kernels.ops import Operators
from octavo_engine.runner.kernels.upload import upload

LayerCache = tuple[Tensor, Tensor]  # keys and values of a layer


@dataclass(frozen=True, slots=True)
class CacheShape:
    layers: int
    block_size: int  # tokens
    kv_heads: int  # of this rank
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        return 2 * self.layers * self.block_size * self.kv_heads * self.head_dim * self.dtype.itemsize

    def dims(self, num_blocks: int) -> tuple[int, ...]:
        return (self.layers, 2, num_blocks, self.block_size, self.kv_heads, self.head_dim)


class KVCache:
    """Device blocks, and host blocks to swap to."""

    def __init__(
        self,
        shape: CacheShape,
        num_blocks: int,
        num_host_blocks: int,
        device: torch.device,
        ops: Operators,
    ) -> None:
        self.null_slot = num_blocks * shape.block_size
        self._device = _zeros(shape, num_blocks + 1, device)
        self._host = _host_zeros(shape, num_host_blocks, device)
        self._copy_blocks = ops.copy_blocks
        self._swapper: Swapper = IndexedSwapper(self._device, self._host)
        if device.type == "cuda" and num_host_blocks:
            from octavo_engine.runner.kernels.triton.cache import BlockSwapper

            self._swapper = BlockSwapper(self._device, self._host)
        self.layers = [(layer[0], layer[1]) for layer in self._device]

    def swap(self, swap_out: list[tuple[int, int]], swap_in: list[tuple[int, int]]) -> None:
        """Move (device, host) pairs of blocks out, then (host, device) pairs in."""
        if swap_out or swap_in:
            self._swapper.swap_out(swap_out)
            self._swapper.swap_in(swap_in)
            self._swapper.join()

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        if pairs:
            sources, targets = upload(np.array(pairs, dtype=np.int64).T, self._device.device)
            self._copy_blocks(self._device, self._device, sources, targets)


class Swapper(Protocol):
    """Copies blocks between the caches; after ``join`` the forward sees the copies."""

    def swap_out(self, pairs: list[tuple[int, int]]) -> None: ...
    def swap_in(self, pairs: list[tuple[int, int]]) -> None: ...
    def join(self) -> None: ...


@dataclass(frozen=True, slots=True)
class IndexedSwapper:
    """Both caches lie in the machine's memory."""

    device: Tensor
    host: Tensor

    def swap_out(self, pairs: list[tuple[int, int]]) -> None:
        _copy(self.device, self.host, pairs)

    def swap_in(self, pairs: list[tuple[int, int]]) -> None:
        _copy(self.host, self.device, pairs)

    def join(self) -> None:
        """Every copy is done when it returns."""


def _copy(source: Tensor, target: Tensor, pairs: list[tuple[int, int]]) -> None:
    if pairs:
        copy_blocks(source, target, *torch.tensor(pairs, dtype=torch.int64).T)


def _host_zeros(shape: CacheShape, num_blocks: int, device: torch.device) -> Tensor:
    """Pinned where a GPU copies to it."""
    if device.type == "cuda" and num_blocks:
        return torch.zeros(shape.dims(num_blocks), dtype=shape.dtype, pin_memory=True)
    return _zeros(shape, num_blocks, torch.device("cpu"))


def _zeros(shape: CacheShape, num_blocks: int, device: torch.device) -> Tensor:
    """Zeros; on the CPU from numpy, whose pages are only taken from the system when they are written."""
    dims = shape.dims(num_blocks)
    if device.type != "cpu" or not num_blocks:
        return torch.zeros(dims, dtype=shape.dtype, device=device)
    raw = np.zeros(math.prod(dims) * shape.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(shape.dtype).view(dims)
