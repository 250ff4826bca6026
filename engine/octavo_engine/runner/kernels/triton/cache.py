"""Moves of whole KV blocks: on the device by one kernel, to and from pinned host memory on a side stream."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096  # elements a program


def write_kv(key: Tensor, value: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] at flat slots; negative slots are skipped.

    Caches are [blocks, block_size, kv_heads, head_dim] and contiguous; tokens of ``key`` may lie apart.
    """
    width = key.shape[1] * key.shape[2]
    if key.shape[0]:
        _write_kernel[(key.shape[0],)](
            key, value, k_cache, v_cache, slot_mapping, key.stride(0), value.stride(0), width,
            triton.next_power_of_2(width), num_warps=4,
        )  # fmt: skip


def copy_blocks(source: Tensor, target: Tensor, sources: Tensor, targets: Tensor) -> None:
    """Copy blocks ``sources`` of ``source`` onto ``targets`` of ``target``, both on the device.

    Caches are [layers, 2, blocks, block_size, kv_heads, head_dim], contiguous; indices are [n] int64. A block
    that is written must not be read by the same call.
    """
    planes, block = source.shape[0] * source.shape[1], source.stride(2)
    if sources.numel():
        grid = (sources.numel(), planes, triton.cdiv(block, _BLOCK))
        _copy_kernel[grid](
            source, target, sources, targets, source.stride(1), target.stride(1), block, _BLOCK, num_warps=8
        )


class BlockSwapper:
    """Copies blocks between the device cache and a pinned host cache on a stream of its own.

    Each direction is ordered after what the current stream has queued; :meth:`join` makes the current stream
    wait for all swaps, without blocking the host. Both caches are [layers, 2, blocks, ...].
    """

    def __init__(self, device_cache: Tensor, host_cache: Tensor) -> None:
        if not host_cache.is_pinned():
            raise ValueError(
                "The host cache must be pinned memory; copies from pageable memory block the host."
            )
        self._device, self._host = device_cache, host_cache
        self._stream = torch.cuda.Stream(device_cache.device)

    def swap_out(self, pairs: list[tuple[int, int]]) -> None:
        """Copy (device block, host block) pairs to the host."""
        self._move(self._device, self._host, pairs)

    def swap_in(self, pairs: list[tuple[int, int]]) -> None:
        """Copy (host block, device block) pairs to the device."""
        self._move(self._host, self._device, pairs)

    def join(self) -> None:
        torch.cuda.current_stream(self._device.device).wait_stream(self._stream)

    def _move(self, source: Tensor, target: Tensor, pairs: list[tuple[int, int]]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device.device))
        with torch.cuda.stream(self._stream):
            for start, goal, count in runs(pairs):
                target[:, :, goal : goal + count].copy_(
                    source[:, :, start : start + count], non_blocking=True
                )


def runs(pairs: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(source, target, count) of stretches in which both sides of ``pairs`` go up by one."""
    found: list[tuple[int, int, int]] = []
    for source, target in pairs:
        if found and (source, target) == (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]):
            found[-1] = (found[-1][0], found[-1][1], found[-1][2] + 1)
        else:
            found.append((source, target, 1))
    return found


@triton.jit
def _write_kernel(
    key, value, k_cache, v_cache, slots, key_stride, value_stride, width: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    columns = tl.arange(0, block)
    inside = (columns < width) & (slot >= 0)
    k = tl.load(key + token * key_stride + columns, mask=inside)
    v = tl.load(value + token * value_stride + columns, mask=inside)
    tl.store(k_cache + slot * width + columns, k.to(k_cache.dtype.element_ty), mask=inside)
    tl.store(v_cache + slot * width + columns, v.to(v_cache.dtype.element_ty), mask=inside)


@triton.jit
def _copy_kernel(source, target, sources, targets, source_plane, target_plane, size, block: tl.constexpr):
    pair, plane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offsets = tl.program_id(2) * block + tl.arange(0, block)
    inside = offsets < size
    origin = source + plane * source_plane + tl.load(sources + pair) * size
    goal = target + plane * target_plane + tl.load(targets + pair) * size
    tl.store(goal + offsets, tl.load(origin + offsets, mask=inside), mask=inside)
