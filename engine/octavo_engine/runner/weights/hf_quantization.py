"""The ``quantization_config`` of config.json, in the ways of writing FP8 checkpoints that are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from octavo_engine.errors import ModelError
from octavo_engine.runner.quantization import Quantization
from octavo_engine.runner.weights.hf_config import read_json

Settings = dict[str, Any]


def hf_quantization(config_json: Path) -> Quantization | None:
    """None for a checkpoint that is not quantized. Raises :class:`ModelError` for an unknown way."""
    raw = read_json(config_json)
    settings = raw.get("quantization_config") or raw.get("compression_config")
    if not settings:
        return None
    method = str(settings.get("quant_method") or "compressed-tensors")
    if method not in _METHODS:
        raise _refusal(f"the method {method!r}")
    try:
        return _METHODS[method](settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{config_json}: quantization_config lacks or misstates {error}.") from error


def _fp8(settings: Settings) -> Quantization:
    if settings.get("weight_block_size"):
        raise _refusal(f"a scale for each block of {settings['weight_block_size']} weights")
    scheme = settings.get("activation_scheme", "dynamic")
    if scheme not in {"dynamic", "static"}:
        raise _refusal(f"the activation_scheme {scheme!r}")
    spared = [*(settings.get("ignored_layers") or []), *(settings.get("modules_to_not_convert") or [])]
    return Quantization("fp8", stored=True, static=scheme == "static", spared=tuple(spared))


def _fbgemm(settings: Settings) -> Quantization:
    """Its upper bound of activations is left aside: each token's scale is that of its own largest number."""
    spared = tuple(settings.get("modules_to_not_convert") or ())
    return Quantization("fbgemm_fp8", stored=True, spared=spared)


def _compressed_tensors(settings: Settings) -> Quantization:
    if settings["format"] != "float-quantized":
        raise _refusal(f"the compressed-tensors format {settings['format']!r}")
    groups = list(settings["config_groups"].values())
    if len(groups) != 1 or groups[0]["targets"] != ["Linear"]:
        raise _refusal("several groups of layers, each in a way of its own")
    weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
    if not _is_fp8(weights) or weights["strategy"] not in {"tensor", "channel"}:
        raise _refusal(f"weights as {weights}")
    if not inputs or not _is_fp8(inputs) or inputs["strategy"] not in {"tensor", "token"}:
        raise _refusal(f"activations as {inputs}")
    static, spared = not inputs.get("dynamic"), tuple(settings.get("ignore") or ())
    return Quantization("compressed-tensors", stored=True, static=static, spared=spared)


def _is_fp8(arguments: Settings) -> bool:
    symmetric = bool(arguments.get("symmetric", True))
    return arguments["num_bits"] == 8 and arguments["type"] == "float" and symmetric


def _refusal(what: str) -> ModelError:
    return ModelError(
        f"The checkpoint is quantized with {what}, which is not built; known are FP8 (e4m3) weights and "
        f"activations with a scale for each tensor, row or token, by {', '.join(_METHODS)}."
    )


_METHODS: dict[str, Callable[[Settings], Quantization]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fbgemm,
}
