"""Small FP8 checkpoints in the ways that others write them, and transformers' logits of the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from octavo_engine.runner.kernels.fp8 import Quantized, dequantize, quantize

Tensors = dict[str, Tensor]
Rounding = Callable[[str, Tensor], Tensor]  # (name of the linear layer, its input) -> what it computes with

STATIC_SCALE = 0.05
_GROUP: dict[str, Any] = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
    "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
}


def compressed(**changes: Any) -> dict[str, Any]:
    """A quantization_config of llm-compressor."""
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": _GROUP | changes},
        "ignore": ["lm_head"],
    }


_STATIC = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
_FEW = ["model.layers.0.mlp.down_proj", "lm_head"]
FORMATS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]},
    "fp8-static": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8-inverse": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "compressed-tensors": compressed(),
    "compressed-static": compressed(
        weights=_GROUP["weights"] | {"strategy": "tensor"}, input_activations=_STATIC
    ),
    "fbgemm_fp8": {
        "quant_method": "fbgemm_fp8",
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": _FEW,
    },
    "spared": compressed() | {"ignore": [r"re:model\.layers\.1\.self_attn\..*", "layers.2.mlp", "lm_head"]},
}
SPARED = {
    "fbgemm_fp8": lambda name: name.startswith("model.layers.0.mlp.down_proj"),
    "spared": lambda name: name.startswith(("model.layers.1.self_attn", "model.layers.2.mlp")),
}


def write(folder: Path, kind: str, **tensors: Tensor) -> Path:
    """Turn the plain checkpoint in ``folder`` into one of ``FORMATS``; ``tensors`` are added to it."""
    path, config = folder / "model.safetensors", folder / "config.json"
    found = {name: each for old, x in load_file(path).items() for name, each in _stored(kind, old, x).items()}
    save_file(found | tensors, path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": FORMATS[kind]}))
    return folder


def is_quantized(kind: str, name: str) -> bool:
    return name.endswith("_proj.weight") and not SPARED.get(kind, lambda name: False)(name)


def _stored(kind: str, name: str, x: Tensor) -> Tensors:
    if not is_quantized(kind, name):
        return {name: x}
    stem = name.removesuffix("weight")
    by_tensor = kind in {"fp8", "fp8-static", "fp8-inverse", "compressed-static"}
    found = quantize(x, x.abs().max() / 448 if by_tensor else None)
    scales = found.scales[0].clone() if by_tensor else found.scales[:, None]
    scale_name = "weight_scale_inv" if kind == "fp8-inverse" else "weight_scale"
    inputs = {stem + "input_scale": torch.tensor([STATIC_SCALE])} if "static" in kind else {}
    return {name: found.values, stem + scale_name: scales, **inputs}


def reference_logprobs(folder: Path, kind: str, tokens: list[int]) -> NDArray[np.float64]:
    """[tokens, vocab] by transformers, from the checkpoint's dequantized weights and rounded activations."""
    weights = _dequantized(load_file(folder / "model.safetensors"))
    scale = torch.tensor(STATIC_SCALE) if "static" in kind else None
    return logprobs_of(folder, weights, lambda name: is_quantized(kind, f"{name}.weight"), scale, tokens)


def logprobs_of(
    folder: Path,
    weights: Tensors,
    rounds: Callable[[str], bool],
    scale: Tensor | None,
    tokens: list[int],
) -> NDArray[np.float64]:
    """``rounds``: whether the linear layer of a name takes rounded activations."""
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(_config_of(folder, raw), attn_implementation="eager").eval()
    missing, _ = model.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "lm_head" not in name]
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and rounds(name):
            layer.register_forward_pre_hook(_rounding(scale))
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0]
    found: NDArray[np.float64] = logits.double().log_softmax(-1).numpy()
    return found


def _config_of(folder: Path, raw: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)


def _rounding(scale: Tensor | None) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(layer: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        x = given[0]
        return (dequantize(quantize(x.flatten(0, -2), scale), x.dtype).view(x.shape),)

    return hook


def _dequantized(tensors: Tensors) -> Tensors:
    scales = ("weight_scale", "weight_scale_inv", "input_scale")
    found = {name: x for name, x in tensors.items() if not name.endswith(scales)}
    for name, x in found.items():
        for kind in scales[:2]:
            scale = tensors.get(name.removesuffix("weight") + kind)
            if scale is not None:
                rows = scale.flatten().expand(x.shape[0]) if scale.numel() == 1 else scale.flatten()
                found[name] = dequantize(Quantized(x, rows), torch.float32)
    return found
