"""The offline measurements count what the engine does."""

from __future__ import annotations

import pytest
from tests.engine.simulation import VOCAB_SIZE, assert_idle, engine_config, start_engine

from octavo_engine.bench.offline import measure_latency, measure_throughput
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
