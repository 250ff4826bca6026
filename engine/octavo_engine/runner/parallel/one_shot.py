"""All-reduces of small messages between two GPUs of one machine, without NCCL's many steps."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from torch import Tensor

from octavo_engine.runner.parallel.group import DistributedGroup

log = logging.getLogger(__name__)

MOST_BYTES = 2 << 20
"""Up to this it is faster than NCCL between two GPUs over NVLink (bench/all_reduce.py)."""
RANKS = 2  # with more, each would read all the others' numbers; not measured
_DTYPES = (torch.bfloat16, torch.float32)  # those that torch's kernel has


class OneShotGroup(DistributedGroup):
    """Each GPU writes its numbers where the other can read them, waits for the other's and sums both up.

    One kernel of torch's symmetric memory, which may be captured in a graph. Both GPUs get the same bits.
    What is larger, or of another dtype, goes to NCCL.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        """Both ranks at once. Errors: RuntimeError where the GPUs cannot read each other's memory."""
        from torch.distributed import _symmetric_memory as symmetric

        super().__init__(group)
        found = group or dist.group.WORLD
        assert found is not None
        self._name = found.group_name
        self._shared = symmetric.empty(MOST_BYTES, dtype=torch.uint8, device=device)
        symmetric.rendezvous(self._shared, found)

    def all_reduce(self, x: Tensor) -> Tensor:
        if x.nbytes > MOST_BYTES or x.dtype not in _DTYPES or x.nbytes % 16:
            return super().all_reduce(x)
        shared = self._shared[: x.nbytes].view(x.dtype).view(x.shape)
        found: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(shared, x.contiguous(), "sum", self._name)
        return found


def fits(world_size: int) -> bool:
    """Whether all GPUs that this process sees, which are those of the ranks, reach each other's memory."""
    seen = range(torch.cuda.device_count())
    return world_size == RANKS and all(
        torch.cuda.can_device_access_peer(a, b) for a in seen for b in seen if a != b
    )


def group_of(group: dist.ProcessGroup | None, device: torch.device, one_node: bool) -> DistributedGroup:
    """The fastest that this machine allows."""
    if one_node and device.type == "cuda" and fits(dist.get_world_size(group)):
        try:
            return OneShotGroup(group, device)
        except (ImportError, RuntimeError) as error:
            log.warning("all-reduces of small messages go over NCCL: %s", str(error).partition("\n")[0])
    return DistributedGroup(group)
