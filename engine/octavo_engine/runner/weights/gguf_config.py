"""The model's shape from a GGUF file's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo_engine.errors import ModelError
from octavo_engine.gguf_header import GGUFHeader
from octavo_engine.runner.architecture import DecoderConfig, RopeConfig
from octavo_engine.runner.models.family import with_window
from octavo_engine.runner.models.registry import gguf_family

_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class _Metadata:
    pairs: dict[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        return self.pairs.get(key, default)

    def need(self, key: str) -> Any:
        if key not in self.pairs:
            raise ModelError(f"The GGUF file lacks the metadata key {key!r}; convert the model again.")
        return self.pairs[key]


def gguf_config(header: GGUFHeader, rope_factors: list[float] | None) -> DecoderConfig:
    """Raises :class:`ModelError` for an unknown architecture or missing metadata.

    ``rope_factors``: what the tensor rope_freqs holds, where there is one (Llama 3.1 and later).
    """
    meta = _Metadata(header.metadata)
    kind = str(meta.need("general.architecture"))
    family = gguf_family(kind)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    hidden, heads = int(meta.need(f"{kind}.embedding_length")), int(meta.need(f"{kind}.attention.head_count"))
    config = DecoderConfig(
        architecture=family.architecture,
        vocab_size=_vocab_size(meta, kind, shapes),
        hidden_size=hidden,
        intermediate_size=int(meta.need(f"{kind}.feed_forward_length")),
        num_layers=int(meta.need(f"{kind}.block_count")),
        num_heads=heads,
        num_kv_heads=int(meta.get(f"{kind}.attention.head_count_kv", heads)),
        head_dim=int(meta.get(f"{kind}.attention.key_length", hidden // heads)),
        rms_norm_eps=float(meta.need(f"{kind}.attention.layer_norm_rms_epsilon")),
        max_positions=int(meta.need(f"{kind}.context_length")),
        rope=_rope(meta, kind, rope_factors),
        tie_embeddings="output.weight" not in shapes,
        qkv_bias="blk.0.attn_q.bias" in shapes,
        output_bias="blk.0.attn_output.bias" in shapes,
        mlp_bias="blk.0.ffn_down.bias" in shapes,
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
        eos_token_ids=_end_tokens(meta),
    )
    return with_window(config, meta.get(f"{kind}.attention.sliding_window"))


def _vocab_size(meta: _Metadata, kind: str, shapes: dict[str, tuple[int, ...]]) -> int:
    """The embedding's rows: the metadata may count fewer."""
    table = shapes.get("token_embd.weight")
    return table[0] if table else int(meta.need(f"{kind}.vocab_size"))


def _rope(meta: _Metadata, kind: str, factors: list[float] | None) -> RopeConfig:
    theta = float(meta.get(f"{kind}.rope.freq_base", 10000.0))
    if factors is not None:
        return RopeConfig(theta, "factors", {"factors": factors})
    scaling = meta.get(f"{kind}.rope.scaling.type", "none")
    if scaling == "none":
        return RopeConfig(theta)
    parameters = {
        "factor": meta.need(f"{kind}.rope.scaling.factor"),
        "original_max_position_embeddings": meta.get(f"{kind}.rope.scaling.original_context_length"),
    }
    return RopeConfig(theta, str(scaling), parameters)


def _end_tokens(meta: _Metadata) -> tuple[int, ...]:
    found = (meta.get(f"tokenizer.ggml.{name}") for name in _END_TOKENS)
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))
