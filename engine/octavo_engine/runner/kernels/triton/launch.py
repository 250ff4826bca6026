"""Kernels that start while the one before them still runs (programmatic dependent launch, Hopper and later).

A kernel launched so may read nothing but weights before it calls :func:`follow`: the kernel before it, and
those before that one, may be running still.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_MOST_TOKENS = 128  # with more, the products are torch's, and kernels long enough to make no difference


def overlaps(x: Tensor) -> bool:
    """Whether a kernel on ``x`` [tokens, ...] is launched so: a flag for the kernel and for its launch."""
    return x.is_cuda and x.shape[0] <= _MOST_TOKENS and _capability(x.device) >= (9, 0)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@triton.jit
def follow(overlapped: tl.constexpr):
    """Wait until all kernels before have finished and their writes are seen."""
    if overlapped:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(overlapped: tl.constexpr):
    """Let the next kernel start, once all programs of this one have come here or ended.

    Called late: the programs of the next kernel take the places that are free, and where these are few
    programs pile up on some multiprocessors while others stay idle.
    """
    if overlapped:
        tl.extra.cuda.gdc_launch_dependents()
