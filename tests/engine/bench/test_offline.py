"""The offline measurements count what the engine does."""

from __future__ import annotations

import pytest
from tests.engine.simulation import VOCAB_SIZE, assert_idle, engine_config, start_engine

from octavo_engine.bench.mixed import Mixture, measure_mixed
from octavo_engine.bench.offline import measure_latency, measure_throughput
from octavo_engine.bench.prefix import measure_prefix
from octavo_engine.bench.serve import Load
from octavo_engine.cli.main import main
from octavo_engine.errors import EngineError


def load(**changes: int) -> Load:
    values = {"num_prompts": 6, "input_len": 20, "output_len": 5, "max_concurrency": 3} | changes
    return Load(**values, request_rate=0.0, vocab_size=VOCAB_SIZE)


def test_throughput_answers_every_prompt_to_its_full_length() -> None:
    core, _ = start_engine(engine_config())
    result = measure_throughput(core, load())
    assert (result["completed"], result["failed"]) == (6, 0)
    assert core.stats.generation_tokens == 30
    assert core.stats.prompt_tokens == 120
    assert result["output_tokens_per_s"] * result["duration_s"] == pytest.approx(30)
    assert_idle(core)


def test_concurrency_is_never_exceeded() -> None:
    core, _ = start_engine(engine_config(max_num_seqs=8))
    most, step = 0, core.step

    def watched() -> object:
        nonlocal most
        outputs = step()
        most = max(most, core.stats.num_running + core.stats.num_waiting)
        return outputs

    core.step = watched  # type: ignore[assignment, method-assign]
    measure_throughput(core, load(max_concurrency=2))
    assert most == 2


def test_latency_runs_batches_with_prompts_of_their_own() -> None:
    core, _ = start_engine(engine_config())
    result = measure_latency(core, load(num_prompts=4, max_concurrency=4, input_len=40), runs=3)
    assert core.stats.generation_tokens == 4 * 4 * 5, "three runs and a warm-up"
    assert core.stats.prefix_cache_hits == 0
    assert result["batch_ms"]["p50"] >= result["ttft_ms"]["p50"] > 0


def test_a_load_that_does_not_fit_is_an_error() -> None:
    core, _ = start_engine(engine_config())
    with pytest.raises(EngineError, match="200 tokens"):
        measure_throughput(core, load(input_len=200))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["throughput", "--num-prompts", "0"], "--num-prompts must be at least 1, not 0."),
        (["latency", "--batch-size", "0"], "--batch-size must be at least 1, not 0."),
        (["latency", "--num-iters", "-1"], "--num-iters must be at least 1, not -1."),
    ],
)
def test_a_senseless_load_is_refused_on_the_command_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.strip() == words


def test_a_shared_prefix_is_found_by_all_clients_and_by_nobody_else() -> None:
    core, _ = start_engine(engine_config())
    result = measure_prefix(core, clients=2, prefix_len=40, own_len=3, vocab_size=VOCAB_SIZE, runs=2)
    assert core.stats.prefix_cache_hits == 3 * 2 * 32
    assert core.stats.prompt_tokens == 3 * (2 * 43 + 40 + 2 * 43)
    assert result["prefix_ttft_ratio"] == pytest.approx(result["cold_ttft_ms"] / result["cached_ttft_ms"])
    assert_idle(core)


def test_streams_are_measured_alone_and_beside_long_prompts() -> None:
    core, _ = start_engine(engine_config())
    mixture = Mixture(streams=2, prompts=1, prompt_len=30, input_len=5, tokens=6, vocab_size=VOCAB_SIZE)
    result = measure_mixed(core, mixture)
    assert result["tpot_p99_ratio"] > 0
    assert result["prompt_tokens_per_s"] > 0
    assert_idle(core)


def test_a_load_is_split_without_losing_a_request() -> None:
    whole = load(num_prompts=11, max_concurrency=7)
    shares = whole.shares(3)
    assert sum(share.num_prompts for share in shares) == 11
    assert sum(share.max_concurrency for share in shares) == 7
    prompts = [tuple(prompt) for share in shares for prompt in share.prompts()]
    assert len(set(prompts)) == 11
    assert [len(whole.shares(n)) for n in (0, 1, 100)] == [1, 1, 7]
