"""Prints what a tiny model answers on the GPUs given: python -m ...gpu_answers FOLDER TENSOR PIPELINE."""

from __future__ import annotations

import json
import os
import sys

from tests.engine.runner.tiny_models import VOCAB, prompt

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest
from octavo_engine.runner.start import runner_for
from octavo_engine.sampling_params import SamplingParams


def main(folder: str, tensor: int, pipeline: int) -> None:
    config = EngineConfig(
        model=ModelConfig(source=folder, dtype="float32", device="cuda"),
        cache=CacheConfig(num_blocks=64),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=16),
        parallel=ParallelConfig(tensor=tensor, pipeline=pipeline, start_timeout=60),
    )
    core = EngineCore(config, runner_for(config))
    core.start()
    plain = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    seeded = SamplingParams(temperature=1.0, seed=5, top_k=30, max_tokens=12, ignore_eos=True)
    ranked = SamplingParams(
        temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=VOCAB, prompt_logprobs=VOCAB
    )
    for i, params in enumerate([plain, plain, seeded, ranked, ranked]):
        core.add(AddRequest(str(i), prompt(9 + 4 * i, seed=i), params, 0.0))
    tokens: dict[str, list[int]] = {str(i): [] for i in range(5)}
    logprobs: dict[str, list[list[float]]] = {"3": [], "4": []}
    while core.has_work():
        for output in core.step().outputs:
            assert output.error is None, output.error
            tokens[output.request_id] += output.token_ids
            entries = [entry for entry in output.prompt_logprobs or [] if entry] + (output.logprobs or [])
            for entry in entries:
                row = [0.0] * VOCAB
                for token, value in zip(entry.token_ids, entry.logprobs, strict=True):
                    row[token] = value
                logprobs[output.request_id].append(row)
    print(json.dumps({"tokens": list(tokens.values()), "logprobs": logprobs["3"] + logprobs["4"]}))
    sys.stdout.flush()
    core.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
