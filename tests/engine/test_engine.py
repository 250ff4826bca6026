"""The engine core on the fake runner: tokens do not depend on memory, preemption, caching or overlap."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.simulation import (
    MAX_MODEL_LEN,
    VOCAB_SIZE,
    assert_idle,
    drain,
    engine_config,
    generate,
    request,
    start_engine,
    tokens_by_sequence,
)

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.engine import EngineCore
from octavo_engine.errors import ConfigError, OutOfMemory
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import AddRequest, SequenceOutput, StepInput, StepResult, id_prefix

ROOMY = engine_config(blocks=400)


def prompts() -> st.SearchStrategy[list[int]]:
    """Prompts of a few families, so that prefixes are shared now and then."""
    return st.builds(
        lambda family, shared, own: [family] * shared + own,
        st.integers(0, 2),
        st.integers(0, 70),
        st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30),
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[AddRequest]:
    return [
        request(
            f"request-{number}",
            draw(prompts()),
            priority=draw(st.integers(0, 2)),
            salt=draw(st.sampled_from(["", "", "tenant"])),
            n=draw(st.sampled_from([1, 1, 1, 3])),
            temperature=draw(st.sampled_from([0.0, 1.0])),
            max_tokens=draw(st.integers(1, 50)),
            ignore_eos=draw(st.booleans()),
            min_tokens=draw(st.integers(0, 5)),
            prompt_logprobs=draw(st.sampled_from([None, None, 1])),
        )
        for number in range(draw(st.integers(1, 8)))
    ]


def configs() -> st.SearchStrategy[EngineConfig]:
    """Engines short of something: blocks (10 hold one sequence of the greatest length), places, budget."""
    return st.builds(
        engine_config,
        blocks=st.sampled_from([10, 12, 20, 400]),
        host_blocks=st.sampled_from([0, 4, 30]),
        prefix_caching=st.booleans(),
        preemption_mode=st.sampled_from(["recompute", "swap"]),
        policy=st.sampled_from(["fcfs", "priority"]),
        enable_chunked_prefill=st.booleans(),
        max_num_batched_tokens=st.sampled_from([5, 48, 500]),
        max_num_seqs=st.sampled_from([3, 8]),
        steps_in_flight=st.sampled_from([1, 2, 3]),
    )


@settings(max_examples=60, deadline=None)
@given(configs(), workloads())
def test_tokens_are_the_same_under_every_pressure(config: EngineConfig, workload: list[AddRequest]) -> None:
    assert generate(config, workload) == generate(ROOMY, workload)


@settings(max_examples=60, deadline=None)
@given(configs(), workloads(), st.data())
def test_requests_that_come_and_go_do_not_disturb_the_others(
    config: EngineConfig, workload: list[AddRequest], data: st.DataObject
) -> None:
    reference = generate(ROOMY, workload)
    comes = {each.request_id: data.draw(st.integers(0, 20), "comes") for each in workload}
    goes = {
        each.request_id: comes[each.request_id] + data.draw(st.integers(0, 30), "goes")
        for each in workload
        if data.draw(st.booleans(), "is aborted")
    }
    core, _ = start_engine(config)
    outputs: list[SequenceOutput] = []
    for step in range(52):
        for each in workload:
            if comes[each.request_id] == step:
                core.add(each)
        core.abort([name for name, at in goes.items() if at == step])
        core.check_integrity()
        outputs += core.step().outputs
        core.check_integrity()
    tokens = tokens_by_sequence(outputs + drain(core))
    assert_idle(core)
    for key, expected in reference.items():
        got = tokens.get(key, [])
        assert got == (expected[: len(got)] if key[0] in goes else expected)


@settings(max_examples=40, deadline=None)
@given(configs(), prompts(), st.integers(0, 12))
def test_one_of_several_answers_is_aborted_alone(config: EngineConfig, prompt: list[int], at: int) -> None:
    workload = [request("a", prompt, n=3, temperature=1.0, max_tokens=20)]
    reference = generate(ROOMY, workload)
    core, _ = start_engine(config)
    core.add(workload[0])
    outputs: list[SequenceOutput] = []
    while len(outputs) < at + 1:
        outputs += core.step().outputs
    if any(output.finish_reason for output in outputs if output.index == 1):
        return
    core.abort([], [("a", 1)])
    tokens = tokens_by_sequence(outputs + drain(core))
    assert_idle(core)
    assert tokens["a", 0] == reference["a", 0]
    assert tokens["a", 2] == reference["a", 2]
    assert len(tokens.get(("a", 1), [])) <= at + config.scheduler.steps_in_flight + 2


def test_memory_pressure_does_preempt_in_both_modes() -> None:
    workload = [request(f"r{number}", [number] * 60, max_tokens=60) for number in range(6)]
    for mode in ("recompute", "swap"):
        core, _ = start_engine(engine_config(blocks=20, host_blocks=30, preemption_mode=mode))
        for each in workload:
            core.add(each)
        seen_swapped = 0
        while core.has_work():
            core.step()
            seen_swapped = max(seen_swapped, core.stats.num_swapped)
        assert core.stats.preemptions > 0
        assert (seen_swapped > 0) is (mode == "swap")


def test_swap_falls_back_to_recompute_when_the_host_is_full() -> None:
    workload = [request(f"r{number}", [number] * 60, max_tokens=60) for number in range(6)]
    config = engine_config(blocks=20, host_blocks=1, preemption_mode="swap")
    assert generate(config, workload) == generate(ROOMY, workload)


@pytest.mark.parametrize(
    ("message", "status", "words"),
    [
        pytest.param(request("a", []), 400, "prompt is empty", id="an empty prompt"),
        pytest.param(
            request("a", [1] * 200),
            400,
            "200 tokens.*length is 160",
            id="a prompt longer than the model takes",
        ),
        pytest.param(request("a", [1], n=9), 400, "n is 9.*at most 8", id="more answers than places"),
        pytest.param(
            request("a", [1, VOCAB_SIZE]), 400, f"token id {VOCAB_SIZE}", id="a token outside the vocabulary"
        ),
        pytest.param(request("a", [-1]), 400, "token id -1", id="a negative token"),
    ],
)
def test_what_can_never_run_is_refused_with_a_sentence(message: AddRequest, status: int, words: str) -> None:
    core, _ = start_engine(ROOMY)
    core.add(message)
    assert core.has_work()
    outputs = core.step().outputs
    assert [output.index for output in outputs] == list(range(message.params.n))
    assert outputs[0].finish_reason == "error"
    assert outputs[0].error_status == status
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(outputs[0].error)
    assert not core.has_work()


def test_a_full_queue_refuses_with_429_and_recovers() -> None:
    core, _ = start_engine(engine_config(max_waiting=2, max_num_seqs=1))
    for name in "abc":
        core.add(request(name, [1], max_tokens=3))
    refused = core.step().outputs
    assert [(output.request_id, output.error_status) for output in refused if output.error] == [("c", 429)]
    core.add(request("d", [1], max_tokens=3))
    assert {"a", "b", "d"} >= {output.request_id for output in drain(core)} >= {"b", "d"}


def test_an_id_that_is_under_way_is_refused() -> None:
    core, _ = start_engine(ROOMY)
    core.add(request("a", [1], max_tokens=3))
    core.add(request("a", [2], max_tokens=3))
    outputs = drain(core)
    assert sum(output.error is not None for output in outputs) == 1
    assert sum(len(output.token_ids) for output in outputs) == 3


def test_the_length_limit_is_lowered_to_what_the_cache_holds() -> None:
    core = EngineCore(engine_config(blocks=4), FakeRunner(engine_config(blocks=4), max_model_len=1000))
    assert core.start().max_model_len == 64
    core.add(request("a", [1] * 30, max_tokens=None))
    outputs = drain(core)
    assert sum(len(output.token_ids) for output in outputs) == 34
    assert outputs[-1].finish_reason == "length"


def test_a_length_that_was_asked_for_and_does_not_fit_is_an_error() -> None:
    config = msgspec.structs.replace(engine_config(blocks=4), model=ModelConfig(max_model_len=100))
    with pytest.raises(OutOfMemory, match=r"holds 64 tokens.*100.*--max-model-len to 64"):
        EngineCore(config, FakeRunner(config)).start()


def test_a_loop_without_steps_in_flight_is_a_config_error() -> None:
    config = engine_config(steps_in_flight=0)
    with pytest.raises(ConfigError, match="steps_in_flight is 0"):
        EngineCore(config, FakeRunner(config)).start()


class Recorder(FakeRunner):
    """Notes the order of launches and collects."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, max_model_len=MAX_MODEL_LEN)
        self.calls: list[str] = []

    def launch(self, step: StepInput) -> None:
        self.calls.append(f"launch {step.step_id}")
        super().launch(step)

    def collect(self) -> StepResult:
        result = super().collect()
        self.calls.append(f"collect {result.step_id}")
        return result


@pytest.mark.parametrize(
    ("in_flight", "calls"),
    [
        (1, ["launch 0", "collect 0", "launch 1", "collect 1", "launch 2", "collect 2"]),
        (2, ["launch 0", "launch 1", "collect 0", "launch 2", "collect 1", "collect 2"]),
    ],
)
def test_the_next_step_is_launched_before_the_former_is_collected(in_flight: int, calls: list[str]) -> None:
    config = engine_config(steps_in_flight=in_flight)
    recorder = Recorder(config)
    core = EngineCore(config, recorder)
    core.start()
    core.add(request("a", [1, 2, 3], max_tokens=3))
    drain(core)
    assert recorder.calls == calls


class FailingRunner(FakeRunner):
    """Cannot serve the sequences whose prompt begins with 13."""

    def collect(self) -> StepResult:
        result = super().collect()
        bad = {seq_id for seq_id, row in self.rows.items() if row.token_ids[0] == 13}
        tokens = [token for token in result.tokens if token.seq_id not in bad]
        return StepResult(result.step_id, tokens, dict.fromkeys(bad, "Its logits are not finite."))


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_sequence_that_the_runner_cannot_serve_fails_alone(in_flight: int) -> None:
    config = engine_config(steps_in_flight=in_flight)
    core = EngineCore(config, FailingRunner(config, max_model_len=MAX_MODEL_LEN))
    core.start()
    core.add(request("bad", [13] * 100, n=2, max_tokens=4))
    core.add(request("good", [1] * 5, max_tokens=4))
    outputs = drain(core)
    assert_idle(core)
    failed = [output for output in outputs if output.error]
    assert sorted((output.request_id, output.index) for output in failed) == [("bad", 0), ("bad", 1)]
    assert sum(len(output.token_ids) for output in outputs if output.request_id == "good") == 4


def test_what_an_ended_api_process_asked_is_forgotten_whenever_it_is_read() -> None:
    core, _ = start_engine(ROOMY)
    ended, following, other = id_prefix(1, 3), id_prefix(1, 4), id_prefix(11, 0)
    for name in (f"{ended}early", f"{following}early", f"{other}early", "plain"):
        core.add(request(name, [1], max_tokens=2))
    core.abort_client(1, 3)
    for name in (f"{ended}late", f"{following}late", f"{id_prefix(1, 2)}late"):
        core.add(request(name, [1], max_tokens=2))
    answered = {output.request_id for output in drain(core)}
    assert answered == {f"{following}early", f"{following}late", f"{other}early", "plain"}


def test_the_clock_passed_in_tells_when_a_step_began() -> None:
    ticks = iter(range(100))
    runner = FakeRunner(ROOMY, max_model_len=MAX_MODEL_LEN)
    core = EngineCore(ROOMY, runner, clock=lambda: float(next(ticks)))
    assert core.start().load_seconds == 1.0
    seen = []
    launch = runner.launch
    runner.launch = lambda step: (seen.append(core.step_started), launch(step))[1]  # type: ignore[method-assign]
    core.add(request("a", [1], max_tokens=2))
    drain(core)
    assert seen == [2.0, 5.0], "between them: the first step's launch and its end"
    assert core.step_started is None


def test_the_runner_lets_go_of_ended_rows_with_the_next_step() -> None:
    core, runner = start_engine(ROOMY)
    core.add(request("a", [1], max_tokens=1))
    drain(core)
    core.add(request("b", [2], max_tokens=1))
    drain(core)
    assert [row.token_ids[0] for row in runner.rows.values()] == [2]


def test_shutdown_collects_what_was_launched() -> None:
    core, runner = start_engine(engine_config(steps_in_flight=2))
    core.add(request("a", [1], max_tokens=5))
    core.step()
    core.shutdown()
    assert not runner.rows
