"""Which query tokens and which keys each program of the prefill kernel takes, planned on the host.

Programs take a few query tokens of one sequence. Where these are too few to keep the device busy (a short
message after a long cached prefix), several programs share the keys of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.runner.kernels.triton.multiprocessors import multiprocessors

_PROGRAMS_PER_SM = 2
_SHORTEST_PIECE = 128  # keys; every config's tile divides it
_MOST_ROWS = 128  # of every config


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How a program works. ``rows``: query tokens times query heads of a KV head; ``tile``: keys at once."""

    rows: int
    tile: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class PrefillScratch:
    """Partial results of the splits, and their counters, which every launch leaves at zero.

    Launches that share one scratch must not overlap. ``pieces``: programs of one KV head that keep the device
    busy.
    """

    pieces: int
    outputs: Tensor  # [splits, kv_heads, rows, head_dim] float32, flat
    peaks: Tensor  # [splits, kv_heads, rows, 2] float32, flat: the highest score (base 2), the sum of weights
    counters: Tensor  # [splits, kv_heads] int32; a tile's is that of its first split

    @classmethod
    def allocate(
        cls, kv_heads: int, head_dim: int, device: torch.device, pieces: int | None = None
    ) -> PrefillScratch:
        if pieces is None:
            pieces = -(-_PROGRAMS_PER_SM * multiprocessors(device) // kv_heads)
        splits = 2 * pieces  # a tile in two or more pieces has at most twice its share of them
        rows = splits * kv_heads * _MOST_ROWS
        return cls(
            pieces,
            torch.empty(rows * head_dim, dtype=torch.float32, device=device),
            torch.empty(rows * 2, dtype=torch.float32, device=device),
            torch.zeros(splits * kv_heads, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, slots=True)
class PrefillTiles:
    """What each program takes; int32 on the device, one column a program, longest work first.

    ``tiles`` [9, n]: sequence, first token in the batch, tokens, position of the first token; begin and end
    of its keys; place of the tile's first split in the scratch, index of this split, splits of the tile.
    """

    tiles: Tensor
    tokens: int  # most tokens of a tile
    config: PrefillConfig
    scratch: PrefillScratch


def default_config(head_dim: int, tokens: int) -> PrefillConfig:
    """For ``tokens`` query tokens in a batch; few of them are shared out in smaller pieces."""
    if head_dim > 128:
        return PrefillConfig(128, 32, 8, 2)
    return PrefillConfig(128, 128, 8, 3) if tokens > 1024 else PrefillConfig(64, 64, 4, 2)


def plan_tiles(
    first: int, query_lens: NDArray[np.int64], context_lens: NDArray[np.int64], tokens: int, pieces: int
) -> NDArray[np.int32]:
    """[9, programs] of :class:`PrefillTiles` for sequences ``first`` and after, ``tokens`` a tile at most.

    With fewer tiles than ``pieces`` their keys are split, so that there are about that many programs.
    """
    starts = np.cumsum(query_lens) - query_lens
    lens = query_lens[first:]
    counts = -(-lens // tokens)
    sequence = np.repeat(np.arange(first, first + len(lens)), counts)
    offset = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * tokens
    taken = np.minimum(tokens, query_lens[sequence] - offset)
    position = context_lens[sequence] - query_lens[sequence] + offset
    tile, begin, end, place, split, splits = _split_keys(position + taken, pieces)
    whole = np.stack([sequence, starts[sequence] + offset, taken, position])[:, tile]
    order = np.argsort(begin - end, kind="stable")
    columns = np.concatenate([whole, [begin, end, place, split, splits]])[:, order]
    return np.ascontiguousarray(columns, dtype=np.int32)


def _split_keys(keys: NDArray[np.int64], pieces: int) -> tuple[NDArray[np.int64], ...]:
    """(tile, begin, end, place, split, splits) of every program, for tiles of ``keys`` keys each."""
    longest = int(keys.max(initial=1))
    if len(keys) < pieces:
        share = -(-int(keys.sum()) // pieces)
        longest = min(longest, -(-share // _SHORTEST_PIECE) * _SHORTEST_PIECE)
    splits = -(-keys // longest)
    tile = np.repeat(np.arange(len(keys)), splits)
    split = np.arange(len(tile)) - np.repeat(np.cumsum(splits) - splits, splits)
    begin = split * longest
    stored = np.where(splits > 1, splits, 0)
    place = (np.cumsum(stored) - stored)[tile]
    return tile, begin, np.minimum(begin + longest, keys[tile]), place, split, splits[tile]
