"""Forward passes captured in CUDA graphs that share their memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[[], Tensor]


class Capture:
    """Turns forward passes over tensors at fixed addresses into replays; not ``enabled``, leaves them as they
    are."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._pool = torch.cuda.graph_pool_handle() if enabled else None

    def of(self, forward: Forward) -> Forward:
        """What ``forward`` does, launched at once; each replay overwrites the result of the one before."""
        if not self._enabled:
            return forward
        forward()  # compiles kernels and creates handles, which a capture may not
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = forward()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
