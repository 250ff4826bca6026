"""Where the model runs, in which dtype, and how much memory is free there."""

from __future__ import annotations

import torch

from octavo_engine.config import CacheConfig, ModelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.runner.host import free_memory
from octavo_engine.runner.quantization import Quantization

_FP8_CAPABILITY = (8, 9)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(model: ModelConfig, index: int) -> torch.device:
    if model.device == "cpu" or (model.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("--device cuda asks for a GPU, and torch sees none; use --device cpu or auto.")
    return torch.device("cuda", index)


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


def choose_cache_dtype(cache: CacheConfig, device: torch.device) -> torch.dtype | None:
    """Of keys and values; None: the model's. Raises :class:`ConfigError`."""
    if cache.dtype == "auto":
        return None
    _needs_fp8(device, f"--kv-cache-dtype {cache.dtype}")
    return torch.float8_e4m3fn


def check_fp8(quantization: Quantization | None, device: torch.device) -> None:
    """Raises :class:`ConfigError` on a device that cannot compute what the weights ask for."""
    if quantization is not None:
        _needs_fp8(device, f"The quantization {quantization.method}")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on ``device``; on a CPU within the container's limit too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def _needs_fp8(device: torch.device, what: str) -> None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
            f"{what} needs a GPU of compute capability 8.9 or later (Ada, Hopper), and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}; leave it out or use another GPU."
        )


def _has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
