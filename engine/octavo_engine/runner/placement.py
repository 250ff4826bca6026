"""Where the model runs, in which dtype, and how much memory is free there."""

from __future__ import annotations

from pathlib import Path

import torch

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 62


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
    return min(_available_in_system(), _available_in_cgroup())


def _has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _available_in_system() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return _NO_LIMIT
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _available_in_cgroup() -> int:
    """Version 2 of the control groups; reclaimable file pages do not count as used."""
    limit = _CGROUP / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return _NO_LIMIT
    statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    used = int((_CGROUP / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
    return max(0, int(limit.read_text()) - used)
