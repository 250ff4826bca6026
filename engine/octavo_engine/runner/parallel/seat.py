"""A rank's own runner, in whichever process the rank lives."""

from __future__ import annotations

import torch.distributed as dist
from torch._C._distributed_c10d import Store

from octavo_engine.config import EngineConfig
from octavo_engine.runner.model_runner import ModelRunner, Seat
from octavo_engine.runner.parallel.group import PulsingGroup
from octavo_engine.runner.parallel.process_group import join, reach_store, set_environment
from octavo_engine.runner.parallel.pulse import Pulse
from octavo_engine.runner.parallel.topology import Place
from octavo_engine.runner.parallel.wire import Join
from octavo_engine.runner.placement import choose_device


def leave() -> None:
    """Part from the others in good order. NCCL's way out may wait for ever; it ends with the process."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def take_seat(
    config: EngineConfig,
    place: Place,
    device: int,
    neighbours: int,
    at: Join,
    pulse: Pulse,
    store: Store | None = None,
) -> ModelRunner:
    """Join the other ranks at the store (``store``: the one that this process keeps)."""
    one_node = at.host == "127.0.0.1"
    set_environment(one_node)
    found = store or reach_store(at.host, at.port, config.parallel.start_timeout)
    chosen = choose_device(config.model, device)
    links = join(place, found, chosen, config, one_node)
    group = PulsingGroup(links.group, pulse)
    seat = Seat(place, device, neighbours, group, links.before, links.after, pulse)
    return ModelRunner(config, seat)
