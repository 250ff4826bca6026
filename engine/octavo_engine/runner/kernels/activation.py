"""The gated activations of the MLP: ``silu`` (Llama), ``gelu_tanh`` and ``gelu``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gate(gate_up: Tensor, kind: str) -> Tensor:
    """``act(gate) * up`` for ``gate_up`` [tokens, 2 * intermediate] -> [tokens, intermediate]."""
    gate, up = gate_up.chunk(2, dim=-1)
    if kind == "silu":
        return F.silu(gate).mul_(up)
    return F.gelu(gate, approximate="tanh" if kind == "gelu_tanh" else "none").mul_(up)
