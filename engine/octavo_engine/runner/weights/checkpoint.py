"""Opens a model source: its shape, and its weights as a :class:`WeightSource`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.gguf_header import read_gguf
from octavo_engine.model_source import ModelFiles, resolve
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.models.registry import family_of
from octavo_engine.runner.quantization import Quantization
from octavo_engine.runner.weights.gguf import GGUFSource, rope_factors
from octavo_engine.runner.weights.gguf_config import gguf_config
from octavo_engine.runner.weights.hf_config import hf_config
from octavo_engine.runner.weights.hf_quantization import hf_quantization
from octavo_engine.runner.weights.safetensors import SafetensorsSource
from octavo_engine.runner.weights.slots import WeightSource


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``open_weights`` is None for random weights."""

    config: DecoderConfig
    open_weights: Callable[[], WeightSource] | None
    quantization: Quantization | None = None


def open_checkpoint(model: ModelConfig) -> Checkpoint:
    """Raises ModelNotFound, ModelError or ConfigError."""
    files = resolve(model.source)
    _check_format(model, files)
    opened = _open_folder(files) if files.gguf is None else _open_gguf(files.gguf)
    return replace(opened, open_weights=None) if model.load_format == "dummy" else opened


def _open_folder(files: ModelFiles) -> Checkpoint:
    found = hf_quantization(files.config_json)
    return Checkpoint(hf_config(files), lambda: SafetensorsSource(files.folder), found)


def _open_gguf(path: Path) -> Checkpoint:
    header = read_gguf(path)
    config = gguf_config(header, rope_factors(path, header))
    interleaved = family_of(config.architecture).interleaved
    return Checkpoint(config, lambda: GGUFSource(path, header, config.head_dim, interleaved=interleaved))


def _check_format(model: ModelConfig, files: ModelFiles) -> None:
    actual = "safetensors" if files.gguf is None else "gguf"
    if model.load_format not in ("auto", "dummy", actual):
        raise ConfigError(
            f"--load-format {model.load_format} does not fit {model.source}, which is {actual}; "
            f"use --load-format auto or {actual}."
        )
