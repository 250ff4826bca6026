"""How a rank meets the others: torch.distributed with NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from octavo_engine.config import EngineConfig, ParallelConfig
from octavo_engine.runner.parallel.group import SOLO, ParallelGroup
from octavo_engine.runner.parallel.one_shot import group_of
from octavo_engine.runner.parallel.pipe import Neighbour
from octavo_engine.runner.parallel.topology import Place

_OURS = {
    # Multicast over NVLink can put a host's GPUs out of service for all who share them.
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    # Captured all-reduces would register their buffers one by one, which only multicast gains from.
    "NCCL_GRAPH_REGISTER": "0",
    # Who ends the engine, and with which words, is decided by the watch over all ranks.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}


def open_store(host: str, patience: float) -> TCPStore:
    """The store that rank 0 keeps, on a port that is free."""
    return TCPStore(host, 0, None, True, timedelta(seconds=patience), wait_for_workers=False)


def reach_store(host: str, port: int, patience: float) -> TCPStore:
    return TCPStore(host, port, None, False, timedelta(seconds=patience))


def set_environment(one_node: bool) -> None:
    """Defaults of the libraries below, where the user has set nothing."""
    ours = _OURS | ({"GLOO_SOCKET_IFNAME": "lo"} if one_node else {})
    for name, value in ours.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, slots=True)
class Links:
    """A rank's ways to the others: those that share its layers, and its neighbours in the pipeline."""

    group: ParallelGroup
    before: Neighbour | None
    after: Neighbour | None


def join(place: Place, store: Store, device: torch.device, config: EngineConfig, one_node: bool) -> Links:
    """All ranks must join at the same time."""
    parallel = config.parallel
    nccl = device.type == "cuda"
    if nccl:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=place.rank,
        world_size=parallel.world_size,
        timeout=timedelta(seconds=parallel.start_timeout),
        device_id=device if nccl else None,
    )
    # The watch over all ranks finds a hang sooner, and knows whose it is.
    patience = timedelta(seconds=parallel.collective_timeout + config.step_timeout)
    pipes = _pipes(parallel, patience)
    before, after = place.rank - place.tensor, place.rank + place.tensor
    return Links(
        _group(place, parallel, patience, device, one_node),
        None if place.first else Neighbour(before, pipes[before, place.rank]),
        None if place.last else Neighbour(after, pipes[place.rank, after]),
    )


def _group(
    place: Place, parallel: ParallelConfig, patience: timedelta, device: torch.device, one_node: bool
) -> ParallelGroup:
    """Those of this rank's stage: every rank must make the groups of all stages."""
    if place.tensor == 1:
        return SOLO
    if device.type == "cuda" and parallel.pipeline == 1:
        return group_of(None, device, one_node)  # all ranks; another group would take memory of its own
    groups = [
        dist.new_group(list(range(first, first + place.tensor)), timeout=patience)
        for first in range(0, parallel.world_size, place.tensor)
    ]
    return group_of(groups[place.stage], device, one_node)


def _pipes(parallel: ParallelConfig, patience: timedelta) -> dict[tuple[int, int], dist.ProcessGroup]:
    """By (rank, the rank with its shard in the next stage): every rank must make all of them."""
    pairs = [(rank, rank + parallel.tensor) for rank in range(parallel.world_size - parallel.tensor)]
    return {pair: dist.new_group(list(pair), timeout=patience) for pair in pairs}
