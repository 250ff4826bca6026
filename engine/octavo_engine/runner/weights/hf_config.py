"""The model's shape from config.json and generation_config.json, without importing transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octavo_engine.errors import ModelError
from octavo_engine.model_source import ModelFiles
from octavo_engine.runner.architecture import DecoderConfig, RopeConfig
from octavo_engine.runner.models.registry import family_of

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def hf_config(files: ModelFiles) -> DecoderConfig:
    """Raises :class:`ModelError` for an unsound config or an unknown architecture."""
    raw = read_json(files.config_json)
    architecture = (raw.get("architectures") or ["none"])[0]
    family = family_of(architecture)
    try:
        return family.refine(_decoder_config(architecture, raw, _end_tokens(files.folder, raw)), raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{files.config_json} lacks or misstates the setting {error}.") from error


def _decoder_config(architecture: str, raw: dict[str, Any], end_tokens: tuple[int, ...]) -> DecoderConfig:
    heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    return DecoderConfig(
        architecture=architecture,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=hidden,
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or hidden // heads),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        max_positions=int(raw.get("max_position_embeddings", 2048)),
        rope=_rope(raw),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        activation=_ACTIVATIONS[raw.get("hidden_act") or "silu"],
        eos_token_ids=end_tokens,
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )


def _rope(raw: dict[str, Any]) -> RopeConfig:
    """transformers 5 writes ``rope_parameters``; earlier ones ``rope_theta`` beside ``rope_scaling``."""
    settings = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(settings.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0)
    kind = settings.pop("rope_type", None) or settings.pop("type", None) or "default"
    return RopeConfig(theta, str(kind), settings)


def _end_tokens(folder: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    found = read_json(generation).get("eos_token_id") if generation.is_file() else None
    found = raw.get("eos_token_id") if found is None else found
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def read_json(path: Path) -> dict[str, Any]:
    """Raises :class:`ModelError`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object.")
    return content
