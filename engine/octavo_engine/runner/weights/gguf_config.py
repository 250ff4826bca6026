"""The model's shape from a GGUF file's metadata."""

from __future__ import annotations

from typing import Any

import gguf

from octavo_engine.errors import ModelError
from octavo_engine.runner.models.config import DecoderConfig, RopeConfig
from octavo_engine.runner.weights.gguf import rope_factors

_ARCHITECTURES = {"llama": "LlamaForCausalLM"}
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


class _Metadata:
    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelError(f"The GGUF file lacks the metadata key {key!r}; convert the model again.")
        return value


def gguf_config(reader: gguf.GGUFReader) -> DecoderConfig:
    """Raises :class:`ModelError` for an unknown architecture or missing metadata."""
    meta = _Metadata(reader)
    kind = str(meta.need("general.architecture"))
    if kind not in _ARCHITECTURES:
        raise ModelError(
            f"The GGUF architecture {kind!r} is not known; known is {', '.join(_ARCHITECTURES)}."
        )
    names = {tensor.name for tensor in reader.tensors}
    hidden, heads = int(meta.need(f"{kind}.embedding_length")), int(meta.need(f"{kind}.attention.head_count"))
    return DecoderConfig(
        architecture=_ARCHITECTURES[kind],
        vocab_size=_vocab_size(meta, kind, reader),
        hidden_size=hidden,
        intermediate_size=int(meta.need(f"{kind}.feed_forward_length")),
        num_layers=int(meta.need(f"{kind}.block_count")),
        num_heads=heads,
        num_kv_heads=int(meta.get(f"{kind}.attention.head_count_kv", heads)),
        head_dim=int(meta.get(f"{kind}.attention.key_length", hidden // heads)),
        rms_norm_eps=float(meta.need(f"{kind}.attention.layer_norm_rms_epsilon")),
        max_positions=int(meta.need(f"{kind}.context_length")),
        rope=_rope(meta, kind, reader),
        tie_embeddings="output.weight" not in names,
        attention_bias="blk.0.attn_q.bias" in names,
        sliding_window=meta.get(f"{kind}.attention.sliding_window"),
        eos_token_ids=_end_tokens(meta),
    )


def _vocab_size(meta: _Metadata, kind: str, reader: gguf.GGUFReader) -> int:
    """The embedding's rows: the metadata may count fewer."""
    table = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    return int(table.shape[1]) if table is not None else int(meta.need(f"{kind}.vocab_size"))


def _rope(meta: _Metadata, kind: str, reader: gguf.GGUFReader) -> RopeConfig:
    theta = float(meta.get(f"{kind}.rope.freq_base", 10000.0))
    factors = rope_factors(reader)
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
