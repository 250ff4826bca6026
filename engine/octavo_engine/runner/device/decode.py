"""The forward pass of a step of decodes alone: replayed from CUDA graphs, one for each padded batch size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from octavo_engine.runner.architecture import Windows
from octavo_engine.runner.device.capture import Capture, Forward
from octavo_engine.runner.device.rows import DeviceRows
from octavo_engine.runner.inputs import ForwardInputs
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.runner.kernels.triton.attention import PagedPlan
from octavo_engine.runner.kernels.triton.decode import DecodeScratch
from octavo_engine.runner.kernels.triton.inputs import expand_decodes
from octavo_engine.runner.kv_cache import LayerCache
from octavo_engine.runner.models.family import CausalModel

_SMALL_SIZES = (1, 2, 4)
_STRIDE, _LARGE_STRIDE = 8, 16
_LARGE = 256
_NO_TOKENS = np.empty(0, dtype=np.int64)


def graph_sizes(most: int) -> list[int]:
    """Padded batch sizes up to ``most``: 1, 2, 4, then every eighth, beyond 256 every sixteenth."""
    sizes = (*_SMALL_SIZES, *range(_STRIDE, _LARGE, _STRIDE), *range(_LARGE, most, _LARGE_STRIDE))
    return sorted({size for size in sizes if size < most} | {most})


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """The inputs of a decode step at fixed addresses; the first ``size`` entries are what a graph reads."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    contexts: Tensor
    tables: Tensor
    carried: Tensor | None  # from the stage before

    @classmethod
    def allocate(
        cls, most: int, max_blocks: int, device: torch.device, carried: Tensor | None = None
    ) -> DecodeBatch:
        whole = torch.zeros(3, most, dtype=torch.int64, device=device)
        small = torch.zeros(most, dtype=torch.int32, device=device)
        tables = torch.zeros(most, max_blocks, dtype=torch.int32, device=device)
        return cls(whole[0], whole[1], whole[2], small, tables, carried)

    def carried_of(self, count: int) -> Tensor | None:
        return None if self.carried is None else self.carried[:count]

    def fill(self, rows: DeviceRows, places: Tensor, block_size: int, size: int) -> None:
        """Decodes of ``places`` [2, n] (rows, and how many tokens each has), padded to ``size``."""
        expand_decodes(
            places,
            rows.last_tokens,
            rows.tables,
            block_size,
            self.token_ids[:size],
            self.positions[:size],
            self.slots[:size],
            self.contexts[:size],
            self.tables[:size],
        )


class DecodeGraphs:
    """Runs the model over up to ``most`` decodes."""

    def __init__(
        self,
        model: CausalModel,
        caches: list[LayerCache],
        batch: DecodeBatch,
        heads: HeadShape,
        windows: Windows,
    ) -> None:
        self._model, self._caches, self._batch, self._windows = model, caches, batch, windows
        most, device = batch.token_ids.shape[0], batch.token_ids.device
        self._sizes = graph_sizes(most)
        self._scratch = DecodeScratch.allocate(most, heads.heads, heads.kv_heads, heads.head_dim, device)
        self._runs: dict[int, Forward] = {}

    @property
    def most(self) -> int:
        return self._sizes[-1]

    def padded(self, count: int) -> int:
        """The size of the graph that takes ``count`` decodes."""
        return next(size for size in self._sizes if size >= count)

    def prepare(self, capture: Capture) -> None:
        """Capture all sizes, the largest first, whose memory the others use too. The batch holds padding."""
        for size in reversed(self._sizes):
            self._runs[size] = capture.of(partial(self._forward, size))

    def run(self, size: int) -> Tensor:
        """Hidden states [size, hidden] of the batch's first ``size`` entries, until the next run."""
        return self._runs[size]()

    def _forward(self, size: int) -> Tensor:
        batch = self._batch
        plan = PagedPlan(batch.tables[:size], batch.contexts[:size], size, self._scratch, None)
        plans = plan.for_windows(self._windows)
        inputs = ForwardInputs(
            batch.token_ids[:size],
            batch.positions[:size],
            batch.slots[:size],
            plans,
            _NO_TOKENS,
            batch.carried_of(size),
        )
        return self._model(inputs, self._caches)
