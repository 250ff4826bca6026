"""The runner's side of the protocol: rows, preemption, copies, swaps, seeds, failures of one sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.runner.driver import GREEDY, Driver, loaded_runner, step_input
from tests.engine.runner.tiny_models import VOCAB, prompt, save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig
from octavo_engine.errors import ConfigError, EngineError, OutOfMemory
from octavo_engine.messages import SequenceStart, SequenceStep
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.runner.threaded_steps import ThreadedSteps
from octavo_engine.sampling_params import SamplingParams

RANDOM = SamplingParams(temperature=1.5, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama3", tmp_path_factory.mktemp("llama3"))


@pytest.fixture
def driver(folder: Path) -> Driver:
    return Driver(loaded_runner(folder, host_blocks=8))


def alone(folder: Path, tokens: list[int], params: SamplingParams, count: int) -> list[int]:
    return Driver(loaded_runner(folder)).generate([tokens], params, count)[0].output


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "seeded"])
def test_tokens_do_not_depend_on_the_batch_in_float32(
    driver: Driver, folder: Path, params: SamplingParams
) -> None:
    prompts = [prompt(n, seed=n) for n in (3, 17, 9, 30)]
    together = driver.generate(prompts, params, count=12, chunk=7)
    assert [seq.output for seq in together] == [alone(folder, tokens, params, 12) for tokens in prompts]


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "seeded"])
def test_a_sequence_preempted_by_recompute_goes_on_as_if_nothing_happened(
    driver: Driver, folder: Path, params: SamplingParams
) -> None:
    tokens = prompt(10, seed=4)
    seq = driver.add(tokens, params)
    driver.finish_prompts([seq], chunk=6)
    for _ in range(4):
        driver.step((seq, 1))
    driver.preempt(seq)
    while seq.computed < len(seq.tokens) - 5:
        driver.step((seq, 5))
    driver.step((seq, len(seq.tokens) - seq.computed))
    while len(seq.sampled) < 10:
        driver.step((seq, 1))
    assert seq.output == alone(folder, tokens, params, 10)


def test_the_next_step_may_be_launched_before_the_former_is_collected(folder: Path) -> None:
    tokens = prompt(6, seed=8)
    runner = loaded_runner(folder)
    start = SequenceStart(0, tokens, 6, GREEDY, [5, 1, 9, 2], 0)
    runner.launch(step_input(0, starts=[start], sequences=[SequenceStep(0, 0, 6, True, [])]))
    for step in range(1, 6):
        runner.launch(step_input(step, sequences=[SequenceStep(0, 5 + step, 1, True, [])]))
    results = [runner.collect() for _ in range(6)]
    assert [result.step_id for result in results] == list(range(6))
    assert [result.tokens[0].token_id for result in results] == alone(folder, tokens, GREEDY, 6)


def test_a_copied_block_continues_a_sequence_under_another_table(folder: Path) -> None:
    """Copy-on-write: two sequences share block 0, and one gets its own copy of the half-filled block 1."""
    tokens, runner = prompt(6, seed=3), loaded_runner(folder)
    first = SequenceStart(0, tokens, 6, GREEDY, [0, 1], 0)
    runner.launch(step_input(0, starts=[first], sequences=[SequenceStep(0, 0, 6, True, [])]))
    token = runner.collect().tokens[0].token_id
    other = (token + 1) % VOCAB
    second = SequenceStart(1, [*tokens, other], 6, GREEDY, [0, 1], 6)
    steps = [SequenceStep(0, 6, 1, True, []), SequenceStep(1, 6, 1, True, [])]
    runner.launch(step_input(1, copies=[(1, 2)], block_changes=[(0, 1, 2)], starts=[second], sequences=steps))
    found = [sampled.token_id for sampled in runner.collect().tokens]
    wanted = [alone(folder, [*tokens, following], GREEDY, 1)[0] for following in (token, other)]
    assert found == wanted


def test_sequences_of_one_request_draw_from_streams_of_their_own(folder: Path) -> None:
    runner, hot = loaded_runner(folder), SamplingParams(temperature=10.0, seed=3)
    starts = [SequenceStart(i, [5, 6], 2, hot, [i], 0, index=i) for i in range(8)]
    steps = [SequenceStep(i, 0, 2, True, []) for i in range(8)]
    runner.launch(step_input(0, starts=starts, sequences=steps))
    assert len({token.token_id for token in runner.collect().tokens}) > 2


def test_blocks_that_were_swapped_out_come_back_elsewhere(folder: Path) -> None:
    tokens, runner = prompt(6, seed=5), loaded_runner(folder, host_blocks=4)
    start = SequenceStart(0, tokens, 6, GREEDY, [3, 4], 0)
    runner.launch(step_input(0, starts=[start], sequences=[SequenceStep(0, 0, 6, True, [])]))
    intruder = SequenceStart(1, prompt(8, seed=6), 8, GREEDY, [3, 4], 0)
    runner.launch(
        step_input(
            1, swap_out=[(3, 2), (4, 0)], starts=[intruder], sequences=[SequenceStep(1, 0, 8, True, [])]
        )
    )
    changes = [(0, 0, 11), (0, 1, 10)]
    step = SequenceStep(0, 6, 1, True, [])
    runner.launch(step_input(2, swap_in=[(2, 11), (0, 10)], block_changes=changes, sequences=[step]))
    results = [runner.collect() for _ in range(3)]
    assert [results[i].tokens[0].token_id for i in (0, 2)] == alone(folder, tokens, GREEDY, 2)


def test_a_cached_prefix_is_not_computed_again(folder: Path) -> None:
    tokens, runner = prompt(9, seed=2), loaded_runner(folder)
    first = SequenceStart(0, tokens, 9, GREEDY, [7, 8, 9], 0)
    runner.launch(step_input(0, starts=[first], sequences=[SequenceStep(0, 0, 9, True, [])]))
    second = SequenceStart(1, tokens, 9, GREEDY, [7, 8, 10], 8)
    runner.launch(step_input(1, starts=[second], sequences=[SequenceStep(1, 8, 1, True, [])]))
    whole, cached = runner.collect(), runner.collect()
    assert whole.tokens[0].token_id == cached.tokens[0].token_id


def test_many_rows_may_live_at_once(driver: Driver) -> None:
    seqs = [driver.add([3 + n, 4], GREEDY) for n in range(40)]
    result = driver.step(*[(seq, 2) for seq in seqs])
    assert len(result.tokens) == 40


def test_unseeded_sequences_draw_differently(driver: Driver) -> None:
    hot = SamplingParams(temperature=10.0)
    outputs = driver.generate([prompt(4, seed=1)] * 3, hot, count=8)
    assert len({tuple(seq.output) for seq in outputs}) == 3


def test_prompt_logprobs_of_a_chunk_without_a_token_come_with_token_minus_1(driver: Driver) -> None:
    seq = driver.add(prompt(9, seed=1), SamplingParams(temperature=0, prompt_logprobs=2))
    partial, last = driver.step((seq, 5)), driver.step((seq, 4))
    assert [(token.token_id, len(token.prompt_logprobs or [])) for token in partial.tokens] == [(-1, 5)]
    assert [len(token.prompt_logprobs or []) for token in last.tokens] == [3]
    assert [entry.token_ids[0] for entry in seq.prompt_logprobs] == seq.tokens[1:9]
    assert all(len(entry.token_ids) == 3 for entry in seq.prompt_logprobs)


@pytest.mark.parametrize(
    ("tokens", "params", "words"),
    [
        ([5, VOCAB], GREEDY, "Token id 96 in prompt is not below the vocabulary size 96"),
        ([5, 6], SamplingParams(logit_bias={1000: 1.0}), "Token id 1000 in logit_bias"),
    ],
)
def test_an_unknown_token_fails_its_own_sequence(
    driver: Driver, tokens: list[int], params: SamplingParams, words: str
) -> None:
    good, bad = driver.add([5, 6]), driver.add(tokens, params)
    result = driver.step((good, 2), (bad, 2))
    assert [token.seq_id for token in result.tokens] == [good.seq_id]
    assert words in result.failed[bad.seq_id]


def test_a_sequence_of_nans_leaves_no_trace_in_blocks_that_are_used_again(folder: Path) -> None:
    runner = loaded_runner(folder, blocks=2)
    steps = runner._steps  # the cache has no door of its own, and only a broken model writes NaN into it
    assert isinstance(steps, ThreadedSteps)
    for key, value in steps.executor.cache.layers:
        key[:2].fill_(torch.nan)
        value[:2].fill_(torch.nan)
    tokens = prompt(3, seed=9)
    assert Driver(runner, blocks=2).generate([tokens], GREEDY, 4)[0].output == alone(
        folder, tokens, GREEDY, 4
    )


def test_a_step_before_the_cache_is_there_is_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match="before its KV cache was allocated"):
        ModelRunner(EngineConfig(model=ModelConfig(source=str(folder)))).launch(step_input())


def with_cache_of(folder: Path, size: int, max_model_len: int | None) -> ModelRunner:
    model = ModelConfig(source=str(folder), device="cpu", dtype="float32", max_model_len=max_model_len)
    runner = ModelRunner(EngineConfig(model=model, cache=CacheConfig(cpu_kv_cache_bytes=size)))
    runner.load()
    return runner


def test_a_cache_too_small_for_the_length_asked_for_names_the_one_that_fits(folder: Path) -> None:
    runner = with_cache_of(folder, 40_000, max_model_len=100)
    words = r"of 100 tokens needs 98,304 bytes .* lower --max-model-len to 32, raise --kv-cache-memory-bytes"
    with pytest.raises(OutOfMemory, match=words):
        runner.profile_blocks()


def test_a_cache_shorter_than_the_models_own_length_is_left_to_the_engine(folder: Path) -> None:
    assert with_cache_of(folder, 40_000, max_model_len=None).profile_blocks() == (2, 0)


def test_a_cache_of_no_block_is_refused(folder: Path) -> None:
    with pytest.raises(OutOfMemory, match="raise --kv-cache-memory-bytes to"):
        with_cache_of(folder, 10_000, max_model_len=None).profile_blocks()


def test_a_max_model_len_beyond_the_models_positions_is_refused(folder: Path) -> None:
    config = EngineConfig(model=ModelConfig(source=str(folder), max_model_len=10_000))
    with pytest.raises(ConfigError, match="is 10000, but this model's positions end at 128; lower it to 128"):
        ModelRunner(config).load()


def test_the_model_tells_its_length_its_vocabulary_and_its_end(folder: Path) -> None:
    spec = ModelRunner(EngineConfig(model=ModelConfig(source=str(folder)))).load()
    assert (spec.max_model_len, spec.vocab_size, spec.eos_token_ids) == (128, VOCAB, [2])
