"""Where the model runs, in which dtype, and how much memory is free there."""

from __future__ import annotations

import torch

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.runner.host import free_memory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(model: ModelConfig, rank: int) -> torch.device:
    if model.device == "cpu" or (model.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("--device cuda asks for a GPU, and torch sees none; use --device cpu or auto.")
    return torch.device("cuda", rank)


def choose_dtype(model: ModelConfig, checkpoint_dtype: str | None, device: torch.device) -> torch.dtype:
    """The dtype asked for; ``auto`` is the checkpoint's own on a GPU and the fastest on a CPU.

    On a CPU, bfloat16 halves the bytes that a decode step reads, but only with the CPU's own bfloat16
    instructions is it faster than float32.
    """
    if model.dtype != "auto":
        return _DTYPES[model.dtype]
    if device.type == "cpu":
        return torch.bfloat16 if _has_bfloat16() else torch.float32
    return torch.float16 if checkpoint_dtype == "float16" else torch.bfloat16


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on ``device``; on a CPU within the container's limit too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def _has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
