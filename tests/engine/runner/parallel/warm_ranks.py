"""Worker processes that have torch in memory already and serve one group of ranks after another."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor

from octavo_engine.runner.parallel.wire import WorkerSpec
from octavo_engine.runner.parallel.worker import serve


def _warm() -> None:
    import torch

    import octavo_engine.runner.model_runner  # noqa: F401

    torch.set_num_threads(1)


class WarmRanks:
    """Up to ``most`` ranks at once."""

    def __init__(self, most: int) -> None:
        self.pool = ProcessPoolExecutor(most, multiprocessing.get_context("spawn"), initializer=_warm)

    def close(self) -> None:
        self.pool.shutdown()


class WarmLauncher:
    """A launcher over processes that are there already."""

    host = "127.0.0.1"
    device = 0

    def __init__(self, ranks: WarmRanks, world_size: int, far: Iterable[int] = ()) -> None:
        """``far``: ranks that are treated as another node's."""
        self._ranks = ranks
        self._here = [rank for rank in range(world_size) if rank not in set(far)]
        self._serving: dict[int, Future[int]] = {}

    def here(self) -> list[int]:
        return self._here

    def device_of(self, rank: int) -> int:
        return rank

    def start(self, specs: Iterable[WorkerSpec]) -> None:
        self._serving = {spec.rank: self._ranks.pool.submit(serve, spec) for spec in specs}

    def ended(self) -> dict[int, str]:
        return {rank: "ended" for rank, serving in self._serving.items() if serving.done()}

    def end(self, patience: float) -> None:
        for serving in self._serving.values():
            serving.result(patience or 20)
