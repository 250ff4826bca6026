"""Attention of a mixed batch over the paged cache: decodes in front, prompt chunks behind.

The same two functions as the torch reference, over a plan of device tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from octavo_engine.runner.architecture import Windows
from octavo_engine.runner.kernels.attention import SequenceLayout
from octavo_engine.runner.kernels.ops import HeadShape, Plans
from octavo_engine.runner.kernels.triton.decode import DecodeScratch, paged_decode
from octavo_engine.runner.kernels.triton.prefill import paged_prefill
from octavo_engine.runner.kernels.triton.prefill_tiles import (
    PrefillScratch,
    PrefillTiles,
    default_config,
    plan_tiles,
)
from octavo_engine.runner.kernels.upload import upload


@dataclass(frozen=True, slots=True)
class PagedPlan:
    """What all layers of a step share. For a captured graph its tensors are persistent and rewritten in
    place.

    ``block_tables`` [sequences, max_blocks] and ``context_lens`` [sequences] are int32; a decode row whose
    context is 0 is empty.
    """

    block_tables: Tensor
    context_lens: Tensor
    num_decodes: int
    scratch: DecodeScratch | None
    tiles: PrefillTiles | None
    window: int | None = None
    soft_cap: float | None = None

    def for_windows(self, windows: Windows) -> Plans:
        """The same step for layers of these windows."""
        return {window: replace(self, window=window) for window in windows}


def plan_attention(
    layout: SequenceLayout,
    window: int | None,
    device: torch.device,
    shape: HeadShape,
    scratch: DecodeScratch | None = None,
    *,
    soft_cap: float | None = None,
    prefill_scratch: PrefillScratch | None = None,
) -> PagedPlan:
    """The plan of a step. Scratch memory is reused from step to step where it is given and large enough."""
    if layout.num_decodes and (scratch is None or scratch.counters.shape[0] < layout.num_decodes):
        scratch = DecodeScratch.allocate(
            layout.num_decodes, shape.heads, shape.kv_heads, shape.head_dim, device
        )
    return PagedPlan(
        upload(layout.block_tables, device),
        upload(layout.context_lens.astype(np.int32), device),
        layout.num_decodes,
        scratch,
        _plan_prefill(layout, shape, device, prefill_scratch),
        window,
        soft_cap,
    )


class Planner:
    """Plans the steps of one stream, with one scratch memory that grows to the largest batch seen."""

    def __init__(self, shape: HeadShape, device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._scratch: DecodeScratch | None = None
        self._prefill_scratch = PrefillScratch.allocate(shape.kv_heads, shape.head_dim, device)

    def plan(self, layout: SequenceLayout, windows: Windows) -> Plans:
        found = plan_attention(
            layout, None, self._device, self._shape, self._scratch, prefill_scratch=self._prefill_scratch
        )
        self._scratch = found.scratch
        return found.for_windows(windows)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan, scale: float, v_scale: float = 1.0
) -> Tensor:
    """``q`` [tokens, heads, head_dim] against caches [blocks, block_size, kv_heads, head_dim] -> like ``q``.

    Tokens may lie apart in ``q``; the result is contiguous. Scales as of ``paged_decode``.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    n, window, cap = plan.num_decodes, plan.window, plan.soft_cap
    if n:
        assert plan.scratch is not None
        paged_decode(
            q[:n], k_cache, v_cache, plan.block_tables, plan.context_lens, scale, plan.scratch,
            window=window, soft_cap=cap, v_scale=v_scale, out=out[:n],
        )  # fmt: skip
    if plan.tiles is not None:
        paged_prefill(
            q, k_cache, v_cache, plan.block_tables, plan.tiles, scale, out,
            window=window, soft_cap=cap, v_scale=v_scale,
        )  # fmt: skip
    return out


def _plan_prefill(
    layout: SequenceLayout, shape: HeadShape, device: torch.device, scratch: PrefillScratch | None
) -> PrefillTiles | None:
    first = layout.num_decodes
    if first == len(layout.query_lens):
        return None
    scratch = scratch or PrefillScratch.allocate(shape.kv_heads, shape.head_dim, device)
    config = default_config(shape.head_dim, int(layout.query_lens[first:].sum()))
    tokens = max(1, config.rows // (shape.heads // shape.kv_heads))
    tiles = plan_tiles(first, layout.query_lens, layout.context_lens, tokens, scratch.pieces)
    return PrefillTiles(upload(tiles, device), tokens, config, scratch)
