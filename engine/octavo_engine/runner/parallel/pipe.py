"""What flows between the stages of a pipeline: the hidden states [tokens, hidden] of each step, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from octavo_engine.runner.parallel.pulse import Pulse

_MOST_ON_THE_WAY = 8


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The rank with the same shard in the stage before or after; ``group`` is these two ranks'."""

    rank: int
    group: dist.ProcessGroup


class Pipe:
    """A stage's two ends. Sending waits for nobody; on a GPU receiving holds up the stream alone."""

    def __init__(
        self,
        before: Neighbour | None,
        after: Neighbour | None,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        pulse: Pulse,
    ) -> None:
        self._before, self._after, self._pulse = before, after, pulse
        self._hidden_size, self._dtype, self._device = hidden_size, dtype, device
        self._on_the_way: deque[tuple[Any, Tensor]] = deque()

    @property
    def first(self) -> bool:
        return self._before is None

    @property
    def last(self) -> bool:
        return self._after is None

    def blank(self, tokens: int) -> Tensor | None:
        """Room for the hidden states of ``tokens``; None where none come in."""
        if self.first:
            return None
        return torch.zeros(tokens, self._hidden_size, dtype=self._dtype, device=self._device)

    def receive(self, room: Tensor | None) -> None:
        """The next hidden states, into ``room`` of just their size; nothing happens in the first stage."""
        if self._before is not None and room is not None:
            with self._pulse.waiting():
                dist.recv(room, self._before.rank, self._before.group)

    def send(self, hidden: Tensor) -> None:
        """``hidden`` may be overwritten afterwards; nothing happens in the last stage."""
        if self._after is None:
            return
        copy = hidden.clone()
        self._on_the_way.append((dist.isend(copy, self._after.rank, self._after.group), copy))
        while len(self._on_the_way) > _MOST_ON_THE_WAY:
            with self._pulse.waiting():
                self._on_the_way.popleft()[0].wait()
