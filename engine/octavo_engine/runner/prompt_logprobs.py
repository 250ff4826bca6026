"""Log probabilities of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.messages import TokenLogprobs
from octavo_engine.runner.sampler import rank_tokens

_POSITIONS = 64  # logits of so many positions are held at once, however long the prompt


def prompt_logprobs(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: NDArray[np.int32], count: int
) -> list[TokenLogprobs]:
    """The ``count`` best tokens, and ``targets`` [n], after each of the ``hidden`` states [n, hidden]."""
    found: list[TokenLogprobs] = []
    wanted = torch.from_numpy(targets.astype(np.int64)).to(hidden.device)
    for start in range(0, len(targets), _POSITIONS):
        part = slice(start, start + _POSITIONS)
        found += rank_tokens(head(hidden[part]), wanted[part], [count] * len(wanted[part]))
    return found
