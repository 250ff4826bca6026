"""The forward pass of a small step with prompt chunks, replayed from CUDA graphs.

Launching such a step kernel by kernel takes the host longer than the device. A graph takes a padded number of
tokens, of few sequences; each sequence's tokens go through the kernel for chunks, also where it is one token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from octavo_engine.runner.architecture import Windows
from octavo_engine.runner.device.capture import Capture, Forward
from octavo_engine.runner.inputs import ForwardInputs, StepLayout
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.runner.kernels.triton.attention import PagedPlan
from octavo_engine.runner.kernels.triton.prefill_tiles import (
    PrefillScratch,
    PrefillTiles,
    default_config,
    plan_tiles,
)
from octavo_engine.runner.kernels.upload import upload
from octavo_engine.runner.kv_cache import LayerCache
from octavo_engine.runner.models.family import CausalModel
from octavo_engine.runner.parallel.pipe import Pipe

_TOKENS = (16, 32, 64, 128, 256, 384, 512, 768, 1024)  # with more, the device is the slower one
_MOST_SEQUENCES = 64
_LONGEST_DECODE = 4096  # context; the kernel for chunks reads a longer one with too few programs


def chunk_sizes(most_tokens: int) -> list[int]:
    """Padded numbers of tokens."""
    return [size for size in _TOKENS if size <= most_tokens]


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """One size's inputs at fixed addresses. ``whole`` [3, size]: token ids, positions, slots."""

    whole: Tensor
    tiles: PrefillTiles
    inputs: ForwardInputs

    @classmethod
    def allocate(
        cls,
        size: int,
        tables: Tensor,
        heads: HeadShape,
        windows: Windows,
        scratch: PrefillScratch,
        pipe: Pipe,
    ) -> ChunkBatch:
        device, config = tables.device, default_config(heads.head_dim, size)
        tokens = max(1, config.rows // (heads.heads // heads.kv_heads))
        programs = -(-size // tokens) + tables.shape[0] + scratch.pieces
        whole = torch.zeros(3, size, dtype=torch.int64, device=device)
        whole[2] = -1
        whole_tiles = torch.zeros(9, programs, dtype=torch.int32, device=device)
        tiles = PrefillTiles(whole_tiles, tokens, config, scratch)
        plan = PagedPlan(tables, tables[:, 0], 0, None, tiles)
        return cls(
            whole,
            tiles,
            ForwardInputs(
                whole[0],
                whole[1],
                whole[2],
                plan.for_windows(windows),
                np.empty(0, dtype=np.int64),
                pipe.blank(size),
            ),
        )

    def fill(self, layout: StepLayout) -> None:
        """Tokens past the layout's are padding that is stored nowhere, tiles past it are empty."""
        host = np.zeros(self.whole.shape, dtype=np.int64)
        host[2] = -1
        host[:, : len(layout.token_ids)] = layout.token_ids, layout.positions, layout.slots
        self.whole.copy_(upload(host, self.whole.device))
        sequences = layout.sequences
        found = plan_tiles(
            0,
            sequences.query_lens,
            sequences.context_lens,
            self.tiles.tokens,
            self.tiles.scratch.pieces,
        )
        tiles = np.zeros(self.tiles.tiles.shape, dtype=np.int32)
        tiles[:, : found.shape[1]] = found
        self.tiles.tiles.copy_(upload(tiles, self.whole.device))


class ChunkGraphs:
    """Runs the model over steps of at most the largest of ``sizes`` tokens."""

    def __init__(
        self,
        model: CausalModel,
        caches: list[LayerCache],
        sizes: list[int],
        max_blocks: int,
        heads: HeadShape,
        windows: Windows,
        device: torch.device,
        pipe: Pipe,
    ) -> None:
        self._model, self._caches, self._sizes = model, caches, sizes
        self._tables = torch.zeros(_MOST_SEQUENCES, max_blocks, dtype=torch.int32, device=device)
        scratch = PrefillScratch.allocate(heads.kv_heads, heads.head_dim, device)
        self._batches = {
            size: ChunkBatch.allocate(size, self._tables, heads, windows, scratch, pipe) for size in sizes
        }
        self._runs: dict[int, Forward] = {}

    def prepare(self, capture: Capture) -> None:
        """Capture all sizes."""
        for size in reversed(self._sizes):
            self._runs[size] = capture.of(partial(self._model, self._batches[size].inputs, self._caches))

    def padded(self, layout: StepLayout) -> int | None:
        """The size that takes a step, None when it is too large for a graph."""
        sequences = layout.sequences
        single = sequences.context_lens[sequences.query_lens == 1]
        if len(sequences.query_lens) > _MOST_SEQUENCES or single.max(initial=0) > _LONGEST_DECODE:
            return None
        return next((size for size in self._sizes if size >= len(layout.token_ids)), None)

    def fill(self, size: int, layout: StepLayout) -> ForwardInputs:
        """The step as the inputs of its graph."""
        tables = layout.sequences.block_tables
        part = self._tables[: tables.shape[0], : tables.shape[1]]
        part.copy_(upload(tables, self._tables.device))
        self._batches[size].fill(layout)
        return self._batches[size].inputs

    def run(self, size: int) -> Tensor:
        """Hidden states [size, hidden]."""
        return self._runs[size]()
