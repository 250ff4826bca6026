"""Steps as a GPU runs them: the same tokens as the reference's, however far launches run ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tests.engine.runner.driver import GREEDY, Driver, distributions, loaded_runner, step_input
from tests.engine.runner.tiny_models import FAMILIES, VOCAB, prompt, reference_logprobs, save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine import EngineCore
from octavo_engine.messages import AddRequest, SequenceStart, SequenceStep, StepInput, StepResult
from octavo_engine.runner import model_runner
from octavo_engine.runner.device import chunks
from octavo_engine.runner.device.decode import graph_sizes
from octavo_engine.runner.kernels.triton.table import triton_operators
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.sampling_params import SamplingParams

INTERPRETED = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
}


@pytest.fixture(
    scope="module",
    params=["llama3", "mistral", "biased", "qwen3-windowed"] if torch.cuda.is_available() else ["mistral"],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreted kernels are slow: a smaller shape is enough for them."""
    changes = {} if torch.cuda.is_available() else INTERPRETED
    return save(request.param, tmp_path_factory.mktemp(request.param), **changes)


@pytest.fixture(autouse=True)
def little_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding costs the interpreter as much as work."""
    monkeypatch.setattr(chunks, "_MOST_SEQUENCES", 4)


@pytest.fixture
def runner(folder: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> ModelRunner:
    """On a machine without a GPU the kernels are interpreted, without graphs."""
    return device_runner(folder, monkeypatch, device)


def device_runner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device, host_blocks: int = 8
) -> ModelRunner:
    if device.type == "cpu":
        monkeypatch.setattr(model_runner, "operators", triton_operators)
        monkeypatch.setattr(ModelRunner, "_on_gpu", True)
    return ready(ModelRunner(configuration(folder, device)), host_blocks)


def fp8_configuration(folder: Path, device: torch.device) -> EngineConfig:
    """Products and cache in FP8."""
    plain = configuration(folder, device)
    model = msgspec.structs.replace(plain.model, quantization="fp8")
    return msgspec.structs.replace(
        plain, model=model, cache=msgspec.structs.replace(plain.cache, dtype="fp8")
    )


def configuration(folder: Path, device: torch.device, dtype: str = "float32") -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(source=str(folder), dtype=dtype, device=device.type),  # type: ignore[arg-type]
        cache=CacheConfig(block_size=4, num_blocks=64),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16),
    )


def ready(runner: ModelRunner, host_blocks: int) -> ModelRunner:
    runner.load()
    runner.allocate(64, host_blocks)
    return runner


def alone(folder: Path, tokens: list[int], params: SamplingParams, count: int) -> list[int]:
    """What the reference answers."""
    return Driver(loaded_runner(folder)).generate([tokens], params, count)[0].output


def test_tokens_are_the_references(runner: ModelRunner, folder: Path) -> None:
    prompts = [prompt(n, seed=n) for n in (3, 17, 9)]
    together = Driver(runner).generate(prompts, GREEDY, count=5, chunk=7)
    assert [seq.output for seq in together] == [alone(folder, tokens, GREEDY, 5) for tokens in prompts]


def test_tokens_in_fp8_are_the_references(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Log probabilities near the reference's: a number between two of FP8 may be rounded to either."""
    with monkeypatch.context() as patch:
        if device.type == "cpu":
            patch.setattr(model_runner, "operators", triton_operators)
            patch.setattr(ModelRunner, "_on_gpu", True)
        runner = ready(ModelRunner(fp8_configuration(folder, device)), 0)
        everything = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
        prompts = [prompt(n, seed=n) for n in (9, 5)]
        found = Driver(runner).generate(prompts, everything, count=2, chunk=7)
    reference = loaded_runner(folder, quantization="fp8", cache_dtype="fp8")
    for seq, tokens in zip(found, prompts, strict=True):
        (wanted,) = Driver(reference).generate([tokens], everything, count=2)
        prompt_part = slice(0, len(tokens) - 1)
        error = np.abs(distributions(seq, VOCAB) - distributions(wanted, VOCAB))[prompt_part]
        assert error.mean() < 0.05


def test_a_seeded_sequence_draws_the_same_in_any_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    params = SamplingParams(temperature=1.5, seed=11, top_k=20, top_p=0.9)
    tokens, other = prompt(6, seed=1), prompt(5, seed=2)
    single = Driver(device_runner(folder, monkeypatch, device)).generate([tokens], params, 5)
    double = Driver(device_runner(folder, monkeypatch, device)).generate([other, tokens], params, 5)
    assert single[0].output == double[1].output
    assert len(set(single[0].output)) > 1
    driver = Driver(device_runner(folder, monkeypatch, device))
    seeded = driver.add(tokens, params)
    driver.finish_prompts([seeded], chunk=6)
    driver.step((seeded, 1), (driver.add(other, SamplingParams(prompt_logprobs=2)), 5))
    for _ in range(3):
        driver.step((seeded, 1))
    assert seeded.output == single[0].output, "prompt log probabilities of another draw nothing anew"


def test_steps_run_ahead_of_what_the_host_knows(runner: ModelRunner, folder: Path) -> None:
    """Decodes alone, then one beside another sequence's prompt: its token is on the device only."""
    tokens, late = prompt(6, seed=8), prompt(5, seed=9)
    start = SequenceStart(0, tokens, 6, GREEDY, [5, 1, 9, 2], 0)
    runner.launch(step_input(0, starts=[start], sequences=[SequenceStep(0, 0, 6, True, [])]))
    runner.launch(step_input(1, sequences=[SequenceStep(0, 6, 1, True, [])]))
    runner.launch(step_input(2, sequences=[SequenceStep(0, 7, 1, True, [])]))
    second = SequenceStart(1, late, 5, GREEDY, [3, 4], 0)
    steps = [SequenceStep(0, 8, 1, True, []), SequenceStep(1, 0, 5, True, [])]
    runner.launch(step_input(3, starts=[second], sequences=steps))
    runner.launch(step_input(4, sequences=[SequenceStep(1, 5, 1, True, []), SequenceStep(0, 9, 1, True, [])]))
    found: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(5):
        for token in runner.collect().tokens:
            found[token.seq_id].append(token.token_id)
    assert found == {0: alone(folder, tokens, GREEDY, 5), 1: alone(folder, late, GREEDY, 2)}


PICKY = SamplingParams(
    temperature=0.0,
    repetition_penalty=1.3,
    frequency_penalty=0.2,
    presence_penalty=0.1,
    min_tokens=3,
    logit_bias={7: 2.0},
    logprobs=2,
)


def test_a_sequence_that_asks_for_more_shares_steps_and_nobody_waits(
    runner: ModelRunner, folder: Path
) -> None:
    """Penalties, bias and log probabilities on the device."""
    tokens, driver = prompt(6, seed=4), Driver(runner)
    expected = Driver(loaded_runner(folder)).generate([tokens], PICKY, 4)[0].sampled
    plain_expected = alone(folder, tokens, GREEDY, 7)
    plain, picky = driver.add(tokens), driver.add(tokens, PICKY)
    driver.finish_prompts([plain], chunk=6)
    for _ in range(2):
        driver.step((plain, 1))
    driver.step((plain, 1), (picky, 6))
    for _ in range(3):
        driver.step((plain, 1), (picky, 1))
    assert plain.output == plain_expected
    assert picky.output == [token.token_id for token in expected]
    assert plain.sampled[-1].logprobs is None
    for found, wanted in zip(picky.sampled, expected, strict=True):
        assert found.logprobs is not None
        assert wanted.logprobs is not None
        assert (found.logprobs.token_ids, found.logprobs.rank) == (
            wanted.logprobs.token_ids,
            wanted.logprobs.rank,
        )
        assert found.logprobs.logprobs == pytest.approx(wanted.logprobs.logprobs, abs=1e-4)


def test_penalties_count_tokens_that_the_host_does_not_know_yet(runner: ModelRunner, folder: Path) -> None:
    """Three steps are launched before the first is collected."""
    strict = SamplingParams(temperature=0.0, repetition_penalty=5.0, presence_penalty=2.0)
    tokens = prompt(6, seed=4)
    start = SequenceStart(0, tokens, 6, strict, [5, 1, 9], 0)
    runner.launch(step_input(0, starts=[start], sequences=[SequenceStep(0, 0, 6, True, [])]))
    for step in (1, 2):
        runner.launch(step_input(step, sequences=[SequenceStep(0, 5 + step, 1, True, [])]))
    found = [runner.collect().tokens[0].token_id for _ in range(3)]
    assert found == alone(folder, tokens, strict, 3)


def test_prompt_log_probabilities_are_told_beside_penalties(runner: ModelRunner, folder: Path) -> None:
    asking = SamplingParams(temperature=0.0, prompt_logprobs=1)
    tokens, driver = prompt(6, seed=4), Driver(runner)
    picky, other = driver.add(tokens, PICKY), driver.add(tokens, asking)
    driver.finish_prompts([picky], chunk=6)
    driver.step((picky, 1), (other, 6))
    driver.step((picky, 1))
    driver.step((picky, 1))
    assert len(other.prompt_logprobs) == 5
    assert picky.output == alone(folder, tokens, PICKY, 4)


def test_a_sequence_that_was_preempted_goes_on(runner: ModelRunner, folder: Path) -> None:
    tokens, driver = prompt(10, seed=4), Driver(runner)
    seq = driver.add(tokens)
    driver.finish_prompts([seq], chunk=6)
    for _ in range(3):
        driver.step((seq, 1))
    driver.preempt(seq)
    driver.step((seq, len(seq.tokens) - 1))
    for _ in range(3):
        driver.step((seq, 1))
    assert seq.output == alone(folder, tokens, GREEDY, len(seq.output))


def test_blocks_go_to_the_host_and_come_back_elsewhere(runner: ModelRunner, folder: Path) -> None:
    tokens = prompt(6, seed=5)
    start = SequenceStart(0, tokens, 6, GREEDY, [3, 4], 0)
    runner.launch(step_input(0, starts=[start], sequences=[SequenceStep(0, 0, 6, True, [])]))
    intruder = SequenceStart(1, prompt(8, seed=6), 8, GREEDY, [3, 4], 0)
    out = [(3, 2), (4, 0)]
    runner.launch(step_input(1, swap_out=out, starts=[intruder], sequences=[SequenceStep(1, 0, 8, True, [])]))
    changes = [(0, 0, 11), (0, 1, 10)]
    runner.launch(
        step_input(
            2,
            swap_in=[(2, 11), (0, 10)],
            block_changes=changes,
            sequences=[SequenceStep(0, 6, 1, True, [])],
        )
    )
    results = [runner.collect() for _ in range(3)]
    assert [results[i].tokens[0].token_id for i in (0, 2)] == alone(folder, tokens, GREEDY, 2)


def test_an_unknown_token_fails_its_own_sequence(runner: ModelRunner, folder: Path) -> None:
    tokens = prompt(5, seed=3)
    starts = [
        SequenceStart(0, tokens, 5, GREEDY, [0, 1], 0),
        SequenceStart(1, [VOCAB], 1, GREEDY, [2], 0),
    ]
    steps = [SequenceStep(0, 0, 5, True, []), SequenceStep(1, 0, 1, True, [])]
    runner.launch(step_input(0, starts=starts, sequences=steps))
    result = runner.collect()
    assert [token.token_id for token in result.tokens] == alone(folder, tokens, GREEDY, 1)
    assert list(result.failed) == [1]


@dataclass
class Recorded:
    """Passes on to a runner and notes how many steps are in flight."""

    inner: ModelRunner
    in_flight: int = 0
    most: int = 0
    steps: list[StepInput] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def launch(self, step: StepInput) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.inner.launch(step)

    def collect(self) -> StepResult:
        self.in_flight -= 1
        return self.inner.collect()


def test_the_engine_keeps_two_steps_in_flight_and_answers_as_the_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    if device.type == "cpu":
        monkeypatch.setattr(model_runner, "operators", triton_operators)
        monkeypatch.setattr(ModelRunner, "_on_gpu", True)
    config = configuration(folder, device)
    runner = Recorded(ModelRunner(config))
    core = EngineCore(config, runner)  # type: ignore[arg-type]
    core.start()
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    prompts = [prompt(n, seed=n) for n in (3, 21, 9)]
    for i, tokens in enumerate(prompts):
        core.add(AddRequest(str(i), tokens, params, 0.0))
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    while core.has_work():
        for output in core.step().outputs:
            found[output.request_id] += output.token_ids
    assert list(found.values()) == [alone(folder, tokens, GREEDY, 4) for tokens in prompts]
    assert runner.most == 2


def test_layers_of_different_windows_share_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    kinds = ["sliding_attention", "full_attention"]
    changes = INTERPRETED | {"num_hidden_layers": 2, "layer_types": kinds}
    folder = save("qwen3-windowed", tmp_path, **changes)
    prompts = [prompt(n, seed=n) for n in (12, 9)]
    together = Driver(device_runner(folder, monkeypatch, device)).generate(prompts, GREEDY, count=3, chunk=7)
    assert [seq.output for seq in together] == [alone(folder, tokens, GREEDY, 3) for tokens in prompts]


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_to_float32_as_transformers_own_bfloat16(
    family: str, tmp_path: Path, device: torch.device
) -> None:
    """Of prompts and of tokens decoded by graphs; at most 1.5 times transformers' own mean difference."""
    folder = save(family, tmp_path)
    driver = Driver(ready(ModelRunner(configuration(folder, device, "bfloat16")), 0))
    (plain,) = driver.generate([prompt(30, seed=5)], GREEDY, count=12, chunk=8)
    everything = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
    (seq,) = driver.generate([plain.tokens[:40]], everything, count=1, chunk=8)
    exact = reference_logprobs(folder, seq.tokens[:40], torch.float32)
    theirs = reference_logprobs(folder, seq.tokens[:40], torch.bfloat16)
    found = distributions(seq, VOCAB)
    assert np.abs(found - exact).mean() <= 1.5 * np.abs(theirs - exact).mean()
    chosen = [exact[29 + i, token] for i, token in enumerate(plain.output[:11])]
    best = exact[29:40].max(axis=1)
    assert np.max(best - np.array(chosen)) < 10 * np.abs(theirs - exact).max()


@pytest.mark.gpu
@pytest.mark.parametrize("folder", ["llama3"], indirect=True)  # one at a time: each takes what is left
def test_memory_is_measured_and_the_engine_starts_with_what_is_left(
    folder: Path, device: torch.device
) -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    share = 0.2  # beside what other tests hold meanwhile, which may become more or less
    config = msgspec.structs.replace(
        configuration(folder, device),
        cache=CacheConfig(block_size=4, gpu_memory_utilization=min(0.95, 1 - free / total + share)),
    )
    runner = ModelRunner(config)
    core = EngineCore(config, runner)
    ready = core.start()
    assert 0.02 * total < torch.cuda.memory_reserved(device) < 2 * share * total
    assert ready.num_blocks > 1000


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])]
)
def test_graphs_reach_the_largest_batch(most: int, sizes: list[int]) -> None:
    assert graph_sizes(most) == sizes
