"""What a step of the scheduler costs: schedule + update, without a runner's work.

    python bench/scheduler.py [--running 64] [--steps 400] [--runs 5]

Decode steps of N running sequences over a pool that always has room; a stub makes up the tokens.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time

from octavo_engine.config import CacheConfig, EngineConfig, SchedulerConfig
from octavo_engine.messages import AddRequest, SampledToken, StepInput, StepResult
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.scheduler import Scheduler

PROMPT_TOKENS = 512


def tokens_of(step: StepInput) -> StepResult:
    """A result for every sequence that samples in ``step``."""
    return StepResult(step.step_id, [SampledToken(seq.seq_id, 7) for seq in step.sequences if seq.sample])


def decoding_scheduler(num_running: int, num_steps: int) -> Scheduler:
    """A scheduler whose ``num_running`` sequences have computed their prompts."""
    config = EngineConfig(
        cache=CacheConfig(),
        scheduler=SchedulerConfig(
            max_num_seqs=num_running, max_num_batched_tokens=8192, max_waiting=num_running
        ),
    )
    length = PROMPT_TOKENS + num_steps + 64
    num_blocks = num_running * (length // 16 + 2)
    scheduler = Scheduler(
        config,
        num_blocks=num_blocks,
        num_host_blocks=0,
        max_model_len=length,
        vocab_size=1000,
        eos_token_ids=[0],
    )
    params = SamplingParams(max_tokens=None)
    for number in range(num_running):
        prompt = [number + 1] * PROMPT_TOKENS
        scheduler.add(AddRequest(f"request-{number}", prompt, params, arrival_time=0.0))
    while scheduler.stats(0).generation_tokens < num_running:
        step = scheduler.schedule()
        assert step is not None
        scheduler.update(tokens_of(step))
    return scheduler


def step_microseconds(num_running: int, num_steps: int) -> float:
    """The median of ``num_steps`` decode steps, in microseconds."""
    scheduler = decoding_scheduler(num_running, num_steps)
    gc.collect()
    times = []
    for _ in range(num_steps):
        began = time.perf_counter()
        step = scheduler.schedule()
        scheduled = time.perf_counter()
        assert step is not None
        result = tokens_of(step)
        resumed = time.perf_counter()
        scheduler.update(result)
        scheduler.stats(0)
        times.append(scheduled - began + time.perf_counter() - resumed)
    return statistics.median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--running", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}; schedule + update of a decode step; median of {options.runs} runs"
    )
    for num_running in options.running:
        median = statistics.median(step_microseconds(num_running, options.steps) for _ in range(options.runs))
        print(f"{num_running:5d} running  {median:8.1f} us a step  {median / num_running:6.2f} us a sequence")


if __name__ == "__main__":
    main()
