"""Puts together what runs steps on a GPU, and measures what they need besides weights and cache."""

from __future__ import annotations

import torch

from octavo_engine.config import EngineConfig, SchedulerConfig
from octavo_engine.messages import SequenceStart, SequenceStep
from octavo_engine.runner.device.capture import Capture
from octavo_engine.runner.device.chunks import ChunkGraphs, chunk_sizes
from octavo_engine.runner.device.decode import DecodeBatch, DecodeGraphs
from octavo_engine.runner.device.rows import DeviceRows
from octavo_engine.runner.device.steps import DeviceSteps
from octavo_engine.runner.device.warm import compile_sampling
from octavo_engine.runner.forward import StepExecutor
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.sampling_params import SamplingParams


@torch.inference_mode()
def device_steps(
    executor: StepExecutor,
    config: EngineConfig,
    heads: HeadShape,
    device: torch.device,
    dtype: torch.dtype,
) -> DeviceSteps:
    """The steps of ``executor`` on ``device``, with every graph captured and every kernel compiled."""
    model, caches, inputs = executor.model, executor.cache.layers, executor.inputs
    rows = DeviceRows(executor.rows, device, executor.vocab_size, executor.sampler.eos_token_ids)
    max_blocks = executor.rows.block_tables.shape[1]
    most = config.scheduler.max_num_seqs
    batch = DecodeBatch.allocate(most, max_blocks, device, executor.pipe.blank(most))
    graphs = DecodeGraphs(model, caches, batch, heads, inputs.windows)
    batch.fill(rows, torch.zeros(2, 0, dtype=torch.int64, device=device), inputs.block_size, graphs.most)
    eager = config.model.enforce_eager
    sizes = [] if eager else chunk_sizes(config.scheduler.max_num_batched_tokens)
    chunks = ChunkGraphs(model, caches, sizes, max_blocks, heads, inputs.windows, device, executor.pipe)
    capture = Capture(enabled=device.type == "cuda" and not eager)
    chunks.prepare(capture)
    graphs.prepare(capture)
    if device.type == "cuda" and executor.pipe.last:
        compile_sampling(executor.vocab_size, dtype, device)
    return DeviceSteps(executor, rows, batch, graphs, chunks)


@torch.inference_mode()
def activation_bytes(
    executor: StepExecutor, scheduler: SchedulerConfig, max_model_len: int, device: torch.device
) -> int:
    """Memory that the largest step takes besides weights and cache, measured by computing one.

    Counted twice: captured graphs hold memory of their own. ``executor`` stands on a cache for this purpose.
    """
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    steps = _largest_step(executor, scheduler.max_num_batched_tokens, max_model_len)
    carried = executor.pipe.blank(scheduler.max_num_batched_tokens)
    hidden = executor.model(executor.inputs.build(executor.rows, steps, carried), executor.cache.layers)
    if executor.pipe.last:
        executor.model.logits(hidden[: scheduler.max_num_seqs]).log_softmax(dim=-1)
    del hidden
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return 2 * peak


def _largest_step(executor: StepExecutor, tokens: int, longest: int) -> list[SequenceStep]:
    """Prompts of together ``tokens`` tokens, none longer than ``longest``, each in blocks of its own."""
    block_size, next_block, steps = executor.inputs.block_size, 0, []
    for seq_id, begin in enumerate(range(0, tokens, longest)):
        count = min(longest, tokens - begin)
        blocks = list(range(next_block, next_block - (-count // block_size)))
        next_block += len(blocks)
        executor.rows.start(SequenceStart(seq_id, [0] * count, count, SamplingParams(), blocks, 0))
        steps.append(SequenceStep(seq_id, 0, count, True, []))
    return steps


def blocks_of_largest_step(scheduler: SchedulerConfig, block_size: int, longest: int) -> int:
    """Blocks that :func:`activation_bytes` wants of its cache."""
    whole, rest = divmod(scheduler.max_num_batched_tokens, longest)
    return whole * -(-longest // block_size) - (-rest // block_size)
