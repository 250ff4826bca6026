"""How large a batch may be where nobody says: as the GPU's memory allows. Torch is not needed to know it."""

from __future__ import annotations

from typing import NamedTuple

from octavo_engine.config import Device

_LARGE = 70 << 30  # bytes: H100, A100 80 GB and up


class BatchSize(NamedTuple):
    """``sequences`` running at once, and ``tokens`` of a step."""

    sequences: int
    tokens: int


_USUAL, _ON_LARGE_GPUS = BatchSize(256, 2048), BatchSize(512, 8192)


def usual_batch_size(device: Device) -> BatchSize:
    """For the first GPU, or for a CPU."""
    return _ON_LARGE_GPUS if device != "cpu" and gpu_memory() >= _LARGE else _USUAL


def gpu_memory() -> int:
    """Bytes of the first GPU; 0 without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
