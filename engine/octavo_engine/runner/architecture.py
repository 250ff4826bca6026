"""The shape of a decoder-only model, however its checkpoint spells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from octavo_engine.errors import ModelError

Windows = tuple[int | None, ...]  # sliding windows in tokens; None: everything is seen


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding. ``scaling`` is a type of :mod:`octavo_engine.runner.layers.rotary`.

    ``parameters`` holds the type's own settings under the names of transformers' configs; for ``factors``
    (GGUF) the list ``factors`` divides the inverse frequencies.
    """

    theta: float = 10000.0
    scaling: str = "default"
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_positions: int
    rope: RopeConfig = RopeConfig()
    tie_embeddings: bool = False
    activation: str = "silu"  # a name of :mod:`octavo_engine.runner.kernels.activation`
    qkv_bias: bool = False
    output_bias: bool = False  # of attention
    mlp_bias: bool = False
    qk_norm: bool = False  # queries and keys are RMS-normed over the head
    layer_windows: Windows = ()  # sliding window of each layer in tokens; empty: none has one
    eos_token_ids: tuple[int, ...] = ()
    dtype: str | None = None  # the checkpoint's own

    def __post_init__(self) -> None:
        """Raises ModelError for heads that cannot be."""
        if not self.num_kv_heads or self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise ModelError(
                f"The model's config is unsound: {self.num_heads} query heads of {self.head_dim} values "
                f"cannot share {self.num_kv_heads} KV heads."
            )

    @property
    def windows(self) -> Windows:
        """The sliding windows in use, each once; None: a layer sees everything."""
        return tuple(dict.fromkeys(self.layer_windows)) or (None,)

    def window_of(self, layer: int) -> int | None:
        return self.layer_windows[layer] if self.layer_windows else None

    @property
    def num_parameters(self) -> int:
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.num_linear_parameters + tables + norms

    @property
    def num_linear_parameters(self) -> int:
        """Those of the layers' products."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
