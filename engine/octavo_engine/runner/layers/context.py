"""What every layer is built with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from octavo_engine.errors import ConfigError
from octavo_engine.runner.kernels.ops import Operators, torch_operators
from octavo_engine.runner.parallel.group import ParallelGroup
from octavo_engine.runner.parallel.topology import FIRST_OF_ONE, Place, stage_layers
from octavo_engine.runner.quantization import Quantization
from octavo_engine.runner.weights.slots import Shard

_REFERENCE = torch_operators(torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class LayerContext:
    group: ParallelGroup
    dtype: torch.dtype
    device: torch.device
    ops: Operators = _REFERENCE
    quantization: Quantization | None = None  # of linear layers
    cache_dtype: torch.dtype | None = None  # of keys and values; None: the model's
    place: Place = FIRST_OF_ONE
    pipeline_layers: tuple[int, ...] | None = None  # of each stage; None: evenly

    def layers(self, num_layers: int) -> range:
        """Those of this rank's stage."""
        return stage_layers(num_layers, self.place.pipeline, self.pipeline_layers)[self.place.stage]

    @property
    def fp8_in_memory(self) -> bool:
        """Whether the weights of linear layers take one byte a number."""
        return self.quantization is not None and self.ops.fp8.held is not None

    def shard(self, total: int, unit: int = 1) -> Shard:
        """This rank's equal part of ``total``, whose smallest indivisible piece is ``unit``."""
        pieces, world = total // unit, self.group.world_size
        if pieces % world:
            raise ConfigError(
                f"--tensor-parallel-size {world} does not divide the {pieces} pieces of a layer of width "
                f"{total}; choose a divisor of {pieces}."
            )
        length = total // world
        return Shard(self.group.rank * length, length)

    def kv_shard(self, kv_heads: int, head_dim: int) -> Shard:
        """This rank's KV heads; with fewer heads than ranks, neighbouring ranks hold the same head."""
        world = self.group.world_size
        if kv_heads >= world:
            return self.shard(kv_heads * head_dim, head_dim)
        return Shard(self.group.rank * kv_heads // world * head_dim, head_dim)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.nn.Parameter:
        data = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return torch.nn.Parameter(data, requires_grad=False)
