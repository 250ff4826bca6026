"""How many programs a device runs at once."""

from __future__ import annotations

import torch


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
