"""What is said when memory does not last: what needs how much, which setting to change, and to what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from octavo_engine.config import EngineConfig
from octavo_engine.errors import OutOfMemory
from octavo_engine.runner.architecture import DecoderConfig

_GIB = 1 << 30
_MIB = 1 << 20
_HIGHEST_UTILIZATION = 0.97  # the rest is the driver's and the CUDA context's
_FEWEST_TOKENS = 64  # of a step that is still worth having
_SIGNS = ("out of memory", "can't allocate memory")  # of CUDA where torch has no class for it, and of a CPU


@contextmanager
def explained(sentence: Callable[[], str]) -> Iterator[None]:
    """Running out of memory within becomes :class:`OutOfMemory`, which says ``sentence``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if known or any(sign in str(error) for sign in _SIGNS):
            raise OutOfMemory(sentence()) from error
        raise


def of_weights(
    needed: int, free: int, config: DecoderConfig, dtype: torch.dtype, gpus: int | None, fp8: int | None
) -> str:
    """A rank needs ``needed`` bytes where ``free`` are; with weights in FP8, if they are not yet, ``fp8``.

    ``gpus``: how many ranks there are; None on a CPU.
    """
    ways = ["use --dtype bfloat16"] if dtype is torch.float32 and needed // 2 <= free else []
    if gpus is None:
        ways.append(f"raise the memory limit by {_gib(needed - free + _GIB)}")
    else:
        ways += ["use --quantization fp8"] if fp8 is not None and fp8 <= 0.95 * free else []
        ranks = _ranks(gpus, needed * gpus / max(1, free), config)
        ways += [f"raise --tensor-parallel-size to {ranks}"] if ranks else []
    whose = "" if gpus is None else " on each GPU"
    return f"The weights need {_gib(needed)}{whose} and {_gib(free)} of memory is free; {_or(ways)}."


def of_cache(
    config: EngineConfig, length: int, needed: int, budget: int, fitting: int, steps: int, total: int | None
) -> str:
    """The KV cache of a sequence of ``length`` tokens needs ``needed`` bytes where ``budget`` are, which take
    ``fitting`` tokens. ``steps``: bytes kept for activations; ``total``: those of the GPU."""
    ways = [f"lower --max-model-len to {fitting}"] if fitting > 0 else []
    if total is None and budget < config.cache.cpu_kv_cache_bytes:
        ways.append(f"raise the memory limit by {_size(needed - budget)}")
    elif total is None:
        ways.append(f"raise --kv-cache-memory-bytes to {needed}")
    else:
        ways += _more_of_the_gpu(config, needed, budget, steps, total)
    return (
        f"The KV cache of one sequence of {length} tokens needs {_size(needed)} and {_size(max(0, budget))} "
        f"are there beside weights and steps; {_or(ways)}."
    )


def of_blocks(asked: int, bytes_per_block: int, free: int) -> str:
    """``--num-gpu-blocks-override`` names more than there is room for."""
    needed, fitting = asked * bytes_per_block, max(1, int(0.9 * free) // bytes_per_block)
    return (
        f"--num-gpu-blocks-override {asked} needs {_size(needed)} and {_size(free)} are free; "
        f"lower it to {fitting}."
    )


def of_swap_space(asked: int, free: int) -> str:
    fitting = math.floor(0.8 * free / _GIB * 10) / 10
    return (
        f"--swap-space {asked / _GIB:g} is more than the host's memory has free, which is {_gib(free)}; "
        f"lower it to {fitting:g}."
    )


def of_steps(config: EngineConfig) -> str:
    """The largest step did not fit beside the weights."""
    scheduler = config.scheduler
    tokens, sequences = scheduler.max_num_batched_tokens, scheduler.max_num_seqs
    return (
        f"A step of {tokens} tokens and {sequences} sequences does not fit beside the weights; lower "
        f"--max-num-batched-tokens to {_half(tokens)}, and then --max-num-seqs to {_half(sequences)}."
    )


def of_allocation(config: EngineConfig, *, gpu: bool) -> str:
    """KV cache, CUDA graphs or a step did not fit into what was measured."""
    cache = config.cache
    if cache.num_blocks is not None:
        way = f"--num-gpu-blocks-override to {_half(cache.num_blocks)}"
    elif gpu:
        way = f"--gpu-memory-utilization to {max(0.1, cache.gpu_memory_utilization - 0.05):.2f}"
    else:
        way = f"--kv-cache-memory-bytes to {_half(cache.cpu_kv_cache_bytes)}"
    sequences = _half(config.scheduler.max_num_seqs)
    return f"Memory ran out beside the KV cache; lower {way}, or --max-num-seqs to {sequences}."


def _more_of_the_gpu(config: EngineConfig, needed: int, budget: int, steps: int, total: int) -> list[str]:
    ways, lacking = [], needed - budget
    if config.cache.dtype == "auto" and needed // 2 <= budget:
        ways.append("use --kv-cache-dtype fp8")
    utilization = math.ceil(100 * (config.cache.gpu_memory_utilization + lacking / total)) / 100
    if utilization <= _HIGHEST_UTILIZATION:
        ways.append(f"raise --gpu-memory-utilization to {utilization:.2f}")
    tokens = config.scheduler.max_num_batched_tokens
    fewer = int(tokens * (steps - lacking) / steps) // _FEWEST_TOKENS * _FEWEST_TOKENS if steps else 0
    if fewer > 0:
        ways.append(f"lower --max-num-batched-tokens to {fewer}")
    return ways


def _ranks(now: int, share: float, config: DecoderConfig) -> int | None:
    """The fewest ranks that have ``share`` times a GPU's memory and divide heads and MLP."""
    wanted = range(max(now + 1, math.ceil(1.1 * share)), config.num_heads + 1)
    return next((n for n in wanted if not (config.num_heads % n or config.intermediate_size % n)), None)


def _or(ways: list[str]) -> str:
    return ", ".join([*ways, "or choose a smaller model"]) if ways else "choose a smaller model"


def _half(number: int) -> int:
    return max(1, number // 2)


def _size(size: int) -> str:
    return _gib(size) if size >= 64 * _MIB else f"{size:,} bytes"


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
