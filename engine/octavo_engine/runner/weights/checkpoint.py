"""Opens a model source: its shape, and its weights as a :class:`WeightSource`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.model_source import ModelFiles, resolve
from octavo_engine.runner.models.config import DecoderConfig
from octavo_engine.runner.weights.gguf import GGUFSource, open_gguf
from octavo_engine.runner.weights.gguf_config import gguf_config
from octavo_engine.runner.weights.hf_config import hf_config
from octavo_engine.runner.weights.safetensors import SafetensorsSource
from octavo_engine.runner.weights.slots import WeightSource


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``open_weights`` is None for random weights."""

    config: DecoderConfig
    open_weights: Callable[[], WeightSource] | None


def open_checkpoint(model: ModelConfig) -> Checkpoint:
    files = resolve(model.source)
    _check_format(model, files)
    if files.gguf is not None:
        reader = open_gguf(files.gguf)
        config = gguf_config(reader)
        weights: Callable[[], WeightSource] = lambda: GGUFSource(reader, config.head_dim)  # noqa: E731
    else:
        config = hf_config(files)
        weights = lambda: SafetensorsSource(files.folder)  # noqa: E731
    return Checkpoint(config, None if model.load_format == "dummy" else weights)


def _check_format(model: ModelConfig, files: ModelFiles) -> None:
    actual = "safetensors" if files.gguf is None else "gguf"
    if model.load_format not in ("auto", "dummy", actual):
        raise ConfigError(
            f"--load-format {model.load_format} does not fit {model.source}, which is {actual}; "
            f"use --load-format auto or {actual}."
        )
