"""Small engines on the fake runner, and the loop that drives them to the end."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from octavo_engine.config import CacheConfig, EngineConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import AddRequest, SequenceOutput
from octavo_engine.sampling_params import SamplingParams

MAX_MODEL_LEN = 160
VOCAB_SIZE = 50  # small, so that eos and stop ids are met now and then


def engine_config(
    *, blocks: int = 400, host_blocks: int = 0, prefix_caching: bool = True, **scheduler: object
) -> EngineConfig:
    # Without a bound that is learned from the clock: what happens depends on the requests alone.
    fixed = {"max_num_seqs": 8, "max_num_batched_tokens": 48, "max_decode_slowdown": 0.0}
    settings = fixed | scheduler
    return EngineConfig(
        cache=CacheConfig(
            num_blocks=blocks,
            swap_space_bytes=host_blocks * 16 * FakeRunner.bytes_per_token,
            enable_prefix_caching=prefix_caching,
        ),
        scheduler=msgspec.convert(settings, SchedulerConfig),
    )


def start_engine(config: EngineConfig) -> tuple[EngineCore, FakeRunner]:
    runner = FakeRunner(config, vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN)
    core = EngineCore(config, runner)
    core.start()
    return core, runner


def request(
    name: str, prompt: Iterable[int], priority: int = 0, salt: str = "", **params: object
) -> AddRequest:
    settings = {"temperature": 0.0, "ignore_eos": True} | params
    return AddRequest(name, list(prompt), msgspec.convert(settings, SamplingParams), 0.0, priority, salt)


def drain(core: EngineCore, max_steps: int = 5000) -> list[SequenceOutput]:
    """Step until nothing is left, with the books checked after every step."""
    outputs = []
    for _ in range(max_steps):
        if not core.has_work():
            return outputs
        outputs += core.step().outputs
        core.check_integrity()
    raise AssertionError(f"the engine still has work after {max_steps} steps: {core.stats}")


def tokens_by_sequence(outputs: Iterable[SequenceOutput]) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = {}
    for output in outputs:
        tokens.setdefault((output.request_id, output.index), []).extend(output.token_ids)
    return tokens


def generate(config: EngineConfig, requests: Iterable[AddRequest]) -> dict[tuple[str, int], list[int]]:
    """All tokens of all requests, added at once; every block must have come back."""
    core, _ = start_engine(config)
    for each in requests:
        core.add(each)
    tokens = tokens_by_sequence(drain(core))
    assert_idle(core)
    return tokens


def assert_idle(core: EngineCore) -> None:
    stats = core.stats
    assert (stats.num_running, stats.num_waiting, stats.num_swapped) == (0, 0, 0)
    assert (stats.kv_cache_usage, stats.host_kv_cache_usage) == (0.0, 0.0)
