"""A workload four times as large as the KV cache, run to its end on a real runner."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.engine.runner.tiny_models import prompt

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest, EngineStats
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

FAMILIES = ["llama3", "mistral", "qwen3-windowed"]
BLOCK_SIZE, BLOCKS = 4, 72
PREFIX = prompt(22, seed=100)


def workload() -> list[AddRequest]:
    """Half of the prompts share a prefix; 24 prompts of 3 to 50 tokens, 20 to 40 tokens out."""
    rng, found = random.Random(0), []
    for number in range(24):
        tokens = prompt(rng.randint(3, 28), seed=number)
        params = SamplingParams(temperature=0.0, max_tokens=rng.randint(20, 40), ignore_eos=True)
        found.append(AddRequest(str(number), PREFIX + tokens if number % 2 else tokens, params, 0.0))
    return found


@dataclass
class Run:
    tokens: dict[str, list[int]]  # prompt and output of each request
    stats: EngineStats
    most_on_host: float


def run(
    folder: Path, *, blocks: int, device: str = "cpu", dtype: str = "float32", **scheduler: object
) -> Run:
    settings = {"max_num_seqs": 8, "max_num_batched_tokens": 24} | scheduler
    config = EngineConfig(
        model=ModelConfig(source=str(folder), dtype=dtype, device=device, max_model_len=100),  # type: ignore[arg-type]
        cache=CacheConfig(block_size=BLOCK_SIZE, num_blocks=blocks, swap_space_bytes=1 << 20),
        scheduler=SchedulerConfig(**settings),  # type: ignore[arg-type]
    )
    core = EngineCore(config, ModelRunner(config))
    core.start()
    found, on_host = {}, 0.0
    for request in workload():
        core.add(request)
        found[request.request_id] = list(request.prompt_token_ids)
    while core.has_work():
        for output in core.step().outputs:
            assert output.error is None
            found[output.request_id] += output.token_ids
        core.check_integrity()
        on_host = max(on_host, core.stats.host_kv_cache_usage)
    core.shutdown()
    return Run(found, core.stats, on_host)


def check_pressure(found: Run, mode: str) -> None:
    assert sum(len(tokens) for tokens in found.tokens.values()) >= 4 * BLOCKS * BLOCK_SIZE
    assert found.stats.preemptions > 5
    assert found.stats.prefix_cache_hits > 0
    assert (found.most_on_host > 0) == (mode == "swap")
    for request in workload():
        length = len(request.prompt_token_ids) + (request.params.max_tokens or 0)
        assert len(found.tokens[request.request_id]) == length
