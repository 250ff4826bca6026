"""Whether weights and KV cache fit, and how many blocks do."""

from __future__ import annotations

import torch

from octavo_engine.config import EngineConfig
from octavo_engine.errors import OutOfMemory
from octavo_engine.runner import out_of_memory
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.host import free_memory
from octavo_engine.runner.kv_cache import CacheShape
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.placement import free_bytes


def check_weights_fit(config: DecoderConfig, ctx: LayerContext) -> None:
    """Raises :class:`OutOfMemory` before a byte is read when this rank's weights cannot fit."""
    if _weight_bytes(config, ctx, fp8=ctx.fp8_in_memory) > free_bytes(ctx.device):
        raise OutOfMemory(weights_do_not_fit(config, ctx))


def weights_do_not_fit(config: DecoderConfig, ctx: LayerContext) -> str:
    """The sentence for it, by what is free now and what this process has taken of it for weights."""
    gpu = ctx.device.type == "cuda"
    free = free_bytes(ctx.device) + (torch.cuda.memory_reserved(ctx.device) if gpu else 0)
    narrower = None if ctx.quantization else _weight_bytes(config, ctx, fp8=True)
    return out_of_memory.of_weights(
        _weight_bytes(config, ctx, fp8=ctx.fp8_in_memory),
        free,
        config,
        ctx.dtype,
        ctx.group.world_size if gpu else None,
        narrower,
    )


def _weight_bytes(config: DecoderConfig, ctx: LayerContext, *, fp8: bool) -> int:
    """Of this rank."""
    saved = config.num_linear_parameters * (ctx.dtype.itemsize - 1) if fp8 else 0
    return (config.num_parameters * ctx.dtype.itemsize - saved) // (ctx.group.world_size * ctx.place.pipeline)


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
    host = _host_blocks(config, shape)
    if config.cache.num_blocks is not None:
        return _asked_blocks(config.cache.num_blocks, shape, device), host
    budget = _cache_bytes(config, device) - activation_bytes
    blocks = budget // shape.bytes_per_block - 1  # the block of zeros
    asked = config.model.max_model_len is not None  # else the engine lowers the length to what fits
    if blocks < 1 or (asked and blocks * shape.block_size < max_model_len):
        needed = (-(-max_model_len // shape.block_size) + 1) * shape.bytes_per_block
        fitting, total = max(0, blocks * shape.block_size), _total_bytes(device)
        raise OutOfMemory(
            out_of_memory.of_cache(config, max_model_len, needed, budget, fitting, activation_bytes, total)
        )
    return blocks, host


def _host_blocks(config: EngineConfig, shape: CacheShape) -> int:
    wanted, free = config.cache.swap_space_bytes, free_memory()
    if wanted > 0.9 * free:
        raise OutOfMemory(out_of_memory.of_swap_space(wanted, free))
    return wanted // shape.bytes_per_block


def _asked_blocks(asked: int, shape: CacheShape, device: torch.device) -> int:
    free = free_bytes(device)
    if (asked + 1) * shape.bytes_per_block > free:
        raise OutOfMemory(out_of_memory.of_blocks(asked, shape.bytes_per_block, free))
    return asked


def _cache_bytes(config: EngineConfig, device: torch.device) -> int:
    """On a GPU what utilization leaves after the weights; on a CPU the size asked for, if it is free."""
    free = free_bytes(device)
    if device.type == "cpu":
        return min(config.cache.cpu_kv_cache_bytes, int(0.9 * free))
    total = torch.cuda.mem_get_info(device)[1]
    return free - int((1 - config.cache.gpu_memory_utilization) * total)


def _total_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
