"""Whether weights and KV cache fit, and how many blocks do."""

from __future__ import annotations

import torch

from octavo_engine.config import EngineConfig
from octavo_engine.errors import OutOfMemory
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.kv_cache import CacheShape
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.placement import free_bytes

_GIB = 1 << 30


def check_weights_fit(config: DecoderConfig, ctx: LayerContext) -> None:
    """Raises :class:`OutOfMemory` before a byte is read when this rank's weights cannot fit."""
    needed = config.num_parameters * ctx.dtype.itemsize // ctx.group.world_size
    free = free_bytes(ctx.device)
    if needed > free:
        narrower = " or --dtype bfloat16" if ctx.dtype is torch.float32 else ""
        raise OutOfMemory(
            f"The weights need {_gib(needed)} and {_gib(free)} of memory is free; raise the memory limit to "
            f"{_gib(needed + _GIB)}{narrower}, or choose a smaller model."
        )


def blocks_that_fit(
    config: EngineConfig,
    shape: CacheShape,
    max_model_len: int,
    device: torch.device,
    activation_bytes: int = 0,
) -> tuple[int, int]:
    """(device blocks, host blocks) beside ``activation_bytes`` for the steps.

    Raises :class:`OutOfMemory` when the length asked for does not fit.
    """
    host = config.cache.swap_space_bytes // shape.bytes_per_block
    if config.cache.num_blocks is not None:
        return config.cache.num_blocks, host
    budget = _cache_bytes(config, device) - activation_bytes
    blocks = budget // shape.bytes_per_block - 1  # the block of zeros
    asked = config.model.max_model_len is not None  # else the engine lowers the length to what fits
    if blocks < 1 or (asked and blocks * shape.block_size < max_model_len):
        needed = (-(-max_model_len // shape.block_size) + 1) * shape.bytes_per_block
        raise OutOfMemory(
            f"The KV cache of one sequence of {max_model_len} tokens needs {needed:,} bytes and "
            f"{budget:,} are there; lower --max-model-len to {max(0, blocks * shape.block_size)} "
            f"or raise {_cache_setting(config, budget, needed, device)}."
        )
    return blocks, host


def _cache_bytes(config: EngineConfig, device: torch.device) -> int:
    """On a GPU what utilization leaves after the weights; on a CPU the size asked for, if it is free."""
    free = free_bytes(device)
    if device.type == "cpu":
        return min(config.cache.cpu_kv_cache_bytes, int(0.9 * free))
    total = torch.cuda.mem_get_info(device)[1]
    return free - int((1 - config.cache.gpu_memory_utilization) * total)


def _cache_setting(config: EngineConfig, budget: int, needed: int, device: torch.device) -> str:
    """What gives the KV cache more memory."""
    if device.type != "cpu":
        return "--gpu-memory-utilization"
    if budget < config.cache.cpu_kv_cache_bytes:
        return "the memory limit"
    return f"--kv-cache-memory-bytes to {needed}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
