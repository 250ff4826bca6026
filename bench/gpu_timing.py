"""Times of GPU work, without launch gaps and without what the cache still holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]


def median_seconds(works: Sequence[Work], *, launches: int = 20, runs: int = 7) -> float:
    """Median seconds of one work, over ``runs`` replays of a CUDA graph of at least ``launches`` works.

    ``works`` do the same on different buffers, in turn, so that together they exceed the cache.
    """
    rounds = -(-launches // len(works))
    for work in works:
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for work in works:
                work()
    graph.replay()
    return statistics.median(_replay(graph) for _ in range(runs)) / (rounds * len(works))


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def copy_bandwidth() -> float:
    """Bytes a second, read plus written, of a large copy by a kernel (the copy engine is slower)."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds([lambda: torch.neg(source, out=target)], launches=5)


def matmul_rate(size: int = 8192) -> float:
    """Operations a second of a large bfloat16 product of random data."""
    a, b = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    return float(2 * size**3 / median_seconds([lambda: a @ b], launches=10))
