"""The scheduler's decisions, one by one, and the properties that hold for all of them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.simulation import (
    VOCAB_SIZE,
    drain,
    engine_config,
    generate,
    request,
    start_engine,
    tokens_by_sequence,
)

from octavo_engine.messages import SampledToken, SequenceOutput, StepInput, StepResult
from octavo_engine.scheduler import Scheduler

EOS = 2


def scheduler_of(
    *, blocks: int = 100, host_blocks: int = 0, max_model_len: int = 160, **settings: object
) -> Scheduler:
    return Scheduler(
        engine_config(**settings),
        num_blocks=blocks,
        num_host_blocks=host_blocks,
        max_model_len=max_model_len,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=[EOS],
    )


def step_of(scheduler: Scheduler) -> StepInput:
    step = scheduler.schedule()
    assert step is not None
    scheduler.check_integrity()
    return step


def sampled(step: StepInput | None, token_id: int = 1) -> StepResult:
    assert step is not None
    tokens = [SampledToken(seq.seq_id, token_id) for seq in step.sequences if seq.sample]
    return StepResult(step.step_id, tokens)


def finish_step(scheduler: Scheduler, step: StepInput, token_id: int = 1) -> list[SequenceOutput]:
    outputs = scheduler.update(sampled(step, token_id))
    scheduler.check_integrity()
    return outputs


def shape(step: StepInput) -> list[tuple[int, int, bool]]:
    """(computed, new, sample) of each sequence."""
    return [(seq.num_computed_tokens, seq.num_new_tokens, seq.sample) for seq in step.sequences]


# ---- one budget for decodes and chunks ----
def test_decodes_come_first_and_a_chunk_takes_the_rest_of_the_budget() -> None:
    scheduler = scheduler_of(max_num_batched_tokens=32)
    scheduler.add(request("a", [1] * 10))
    finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("b", [2] * 50))
    step = step_of(scheduler)
    assert shape(step) == [(10, 1, True), (0, 31, False)]
    finish_step(scheduler, step)
    assert shape(step_of(scheduler)) == [(11, 1, True), (31, 19, True)]


def test_without_chunks_a_prompt_waits_until_the_budget_holds_it_whole() -> None:
    scheduler = scheduler_of(max_num_batched_tokens=1, enable_chunked_prefill=False)
    for name in "ab":
        scheduler.add(request(name, [1] * 100))
    first = step_of(scheduler)
    assert shape(first) == [(0, 100, True)]
    finish_step(scheduler, first)
    assert shape(step_of(scheduler)) == [(100, 1, True), (96, 4, True)]


def test_places_limit_the_batch_and_n_takes_its_places_at_once() -> None:
    scheduler = scheduler_of(max_num_seqs=4)
    scheduler.add(request("a", [1], n=3))
    scheduler.add(request("b", [2], n=2))
    scheduler.add(request("c", [3]))
    assert len(step_of(scheduler).sequences) == 1


def test_the_head_of_the_queue_is_not_overtaken() -> None:
    scheduler = scheduler_of(blocks=10)
    scheduler.add(request("a", [1] * 100))
    finish_step(scheduler, step_of(scheduler))
    finish_step(scheduler, step_of(scheduler))
    finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("large", [2] * 100))
    scheduler.add(request("small", [3]))
    assert len(step_of(scheduler).sequences) == 1


@pytest.mark.parametrize(("policy", "first"), [("fcfs", 1), ("priority", 2)])
def test_policy_decides_who_runs_first(policy: str, first: int) -> None:
    scheduler = scheduler_of(policy=policy, max_num_seqs=1)
    scheduler.add(request("usual", [1], priority=1))
    scheduler.add(request("urgent", [2], priority=0))
    assert step_of(scheduler).starts[0].token_ids == [first]


# ---- the end of a sequence ----
@pytest.mark.parametrize(
    ("params", "tokens", "reason", "stop_token_id"),
    [
        pytest.param({"ignore_eos": False}, [5, EOS], "stop", EOS, id="eos ends it"),
        pytest.param(
            {"ignore_eos": True, "max_tokens": 3}, [EOS, EOS, EOS], "length", None, id="ignore_eos does not"
        ),
        pytest.param({"stop_token_ids": (7,)}, [5, 7], "stop", 7, id="a stop id ends it"),
        pytest.param({"max_tokens": 2}, [5, 5], "length", None, id="max_tokens ends it"),
        pytest.param(
            {"ignore_eos": False, "min_tokens": 2},
            [EOS, EOS, EOS],
            "stop",
            EOS,
            id="eos counts after min_tokens",
        ),
        pytest.param({"max_tokens": None}, [5] * 6, "length", None, id="the model's length ends it"),
    ],
)
def test_what_ends_a_sequence(
    params: dict[str, object], tokens: list[int], reason: str, stop_token_id: int | None
) -> None:
    scheduler = scheduler_of(max_model_len=16)
    scheduler.add(request("a", [1] * 10, **params))
    outputs: list[SequenceOutput] = []
    for token_id in tokens:
        assert not outputs or outputs[-1].finish_reason is None
        outputs += finish_step(scheduler, step_of(scheduler), token_id)
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == (reason, stop_token_id)
    assert not scheduler.has_work()
    assert scheduler.schedule() is None


# ---- steps in flight ----
def test_a_decode_is_scheduled_before_its_token_is_known() -> None:
    scheduler = scheduler_of()
    scheduler.add(request("a", [1] * 4, max_tokens=2))
    first, second = step_of(scheduler), step_of(scheduler)
    assert shape(second) == [(4, 1, True)]
    assert scheduler.schedule() is None, "its last token is in flight"
    finish_step(scheduler, first)
    assert finish_step(scheduler, second)[0].finish_reason == "length"


def test_tokens_of_a_sequence_that_ended_meanwhile_are_dropped() -> None:
    scheduler = scheduler_of()
    scheduler.add(request("a", [1] * 4, ignore_eos=False))
    first, second = step_of(scheduler), step_of(scheduler)
    assert finish_step(scheduler, first, EOS)[0].finish_reason == "stop"
    assert finish_step(scheduler, second) == []


@pytest.mark.parametrize("steps", range(8))
def test_an_aborted_request_leaves_nothing_behind_and_is_never_heard_of_again(steps: int) -> None:
    scheduler = scheduler_of(max_num_batched_tokens=16)
    scheduler.add(request("a", [1] * 40, n=3, max_tokens=50))
    launched = [step_of(scheduler) for _ in range(steps)]
    scheduler.abort("a")
    scheduler.check_integrity()
    assert not scheduler.has_work()
    assert scheduler.batch.kv.pool.usage == 0
    assert [output for step in launched for output in finish_step(scheduler, step)] == []


# ---- shared blocks ----
@pytest.mark.parametrize(
    ("length", "copies"),
    [pytest.param(20, 2, id="a partial last block"), pytest.param(32, 2, id="a full last block")],
)
def test_n_answers_share_the_prompt_and_copy_only_its_last_block(length: int, copies: int) -> None:
    scheduler = scheduler_of(blocks=20)
    scheduler.add(request("a", [1] * length, n=3, max_tokens=5))
    finish_step(scheduler, step_of(scheduler))
    step = step_of(scheduler)
    assert len(step.copies) == copies
    assert len({start.block_ids[0] for start in step.starts}) == 1
    assert shape(step) == [(length, 1, True), (length - 1, 1, True), (length - 1, 1, True)]


def test_a_known_prefix_is_taken_but_never_the_last_token() -> None:
    scheduler = scheduler_of()
    for name in "ab":
        scheduler.add(request(name, [1] * 32, max_tokens=1))
        step = step_of(scheduler)
        (output,) = finish_step(scheduler, step)
    assert shape(step) == [(16, 16, True)]
    assert output.num_cached_tokens == 16
    assert (scheduler.stats(0).prefix_cache_hits, scheduler.stats(0).prefix_cache_queries) == (16, 64)


@pytest.mark.parametrize(
    ("second", "cached"),
    [
        pytest.param({}, 32, id="the same prompt"),
        pytest.param({"salt": "tenant"}, 0, id="another salt"),
        pytest.param({"prompt_logprobs": 1}, 0, id="prompt logprobs are wanted"),
    ],
)
def test_who_may_take_a_known_prefix(second: dict[str, object], cached: int) -> None:
    scheduler = scheduler_of()
    outputs = []
    for name, extra in (("a", {}), ("b", second)):
        scheduler.add(request(name, range(40), max_tokens=1, **extra))
        outputs = finish_step(scheduler, step_of(scheduler))
    assert outputs[0].num_cached_tokens == cached


def test_a_longer_conversation_finds_its_own_answer_again() -> None:
    core, _ = start_engine(engine_config())
    core.add(request("turn-1", [1] * 20, max_tokens=30))
    answer = tokens_by_sequence(drain(core))["turn-1", 0]
    core.add(request("turn-2", [1] * 20 + answer + [3], max_tokens=1))
    assert drain(core)[0].num_cached_tokens == 48


# ---- prompt log probabilities ----
@pytest.mark.parametrize("blocks", [100, 12])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_prompt_logprobs_come_once_and_whole(blocks: int, in_flight: int) -> None:
    config = engine_config(blocks=blocks, max_num_batched_tokens=20, steps_in_flight=in_flight)
    core, _ = start_engine(config)
    prompts = {str(number): [number, *range(1, 45)] for number in range(4)}
    for name, prompt in prompts.items():
        core.add(request(name, prompt, prompt_logprobs=1, max_tokens=40, n=2, temperature=1.0))
    reported = [output for output in drain(core) if output.prompt_logprobs is not None]
    assert sorted(output.request_id for output in reported) == sorted(prompts)
    for output in reported:
        assert output.prompt_logprobs is not None
        first, *rest = output.prompt_logprobs
        assert first is None
        assert [entry.token_ids[0] for entry in rest if entry] == prompts[output.request_id][1:]


# ---- preemption ----
def test_the_youngest_gives_way_and_comes_back_before_newer_ones() -> None:
    scheduler = scheduler_of(blocks=10, max_num_batched_tokens=200)
    for name in "abc":
        scheduler.add(request(name, [ord(name) - 97] * 44, max_tokens=100))
    while not scheduler.stats(0).preemptions:
        finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("d", [1], max_tokens=100))
    assert [seq.request.request_id for seq in scheduler.batch.running] == ["a", "b"]
    assert [seq.request.request_id for seq in scheduler.batch.waiting] == ["c", "d"]


def test_nothing_is_admitted_in_a_step_in_which_blocks_ran_out() -> None:
    def until_preemption(urgent_at: int | None) -> tuple[int, StepInput]:
        scheduler = scheduler_of(blocks=10, max_num_batched_tokens=200, policy="priority")
        for name in (0, 1, 2):
            scheduler.add(request(str(name), [name] * 44, priority=1, max_tokens=100))
        for number in range(100):
            if number == urgent_at:
                scheduler.add(request("urgent", [5], priority=0))
            step = step_of(scheduler)
            if scheduler.stats(0).preemptions:
                return number, step
            finish_step(scheduler, step)
        raise AssertionError("blocks never ran out")

    number, _ = until_preemption(urgent_at=None)
    assert until_preemption(urgent_at=number)[1].starts == []


def test_a_preempted_sequence_waits_for_its_token_in_flight() -> None:
    scheduler = scheduler_of(blocks=10, max_num_batched_tokens=200)
    scheduler.add(request("a", [1] * 76, max_tokens=None))
    scheduler.add(request("b", [2] * 47, max_tokens=None))
    launched = []
    while not scheduler.stats(0).preemptions:
        launched.append(step_of(scheduler))
    scheduler.abort("a")
    assert scheduler.schedule() is None
    for step in launched:
        finish_step(scheduler, step)
    (start,) = step_of(scheduler).starts
    assert start.token_ids == [2] * 47 + [1] * (len(start.token_ids) - 47)
    assert len(start.token_ids) > 48


def test_an_urgent_prompt_takes_no_blocks_from_who_is_in_the_step_already() -> None:
    config = engine_config(blocks=19, policy="priority", max_num_batched_tokens=8)
    usual = [request(f"usual-{number}", [number] * 44, priority=1, max_tokens=60) for number in range(3)]
    urgent = request("urgent", [*range(3, 48), *[4] * 100], priority=0, max_tokens=10)
    core, runner = start_engine(config)
    for each in usual:
        core.add(each)
    outputs: list[SequenceOutput] = []
    while core.stats.generation_tokens < 3:
        outputs += core.step().outputs
    core.add(urgent)
    progress = [0]
    while core.has_work():
        outputs += core.step().outputs
        progress += [row.num_computed for row in runner.rows.values() if row.num_prompt_tokens == 145]
    assert any(before == after < 145 for before, after in pairwise(progress)), "it never lacked blocks"
    assert tokens_by_sequence(outputs) == generate(engine_config(), [*usual, urgent])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["recompute", "swap"]), st.sampled_from([1, 2]))
def test_nobody_starves_while_new_requests_keep_coming(seed: int, mode: str, in_flight: int) -> None:
    """The oldest request always finishes within the steps that its own tokens need, and a few to get in."""
    rng = random.Random(seed)
    config = engine_config(blocks=24, host_blocks=10, preemption_mode=mode, steps_in_flight=in_flight)
    core, _ = start_engine(config)
    finished: list[str] = []
    for number in range(60):
        core.add(request(f"{number:03}", [number % 50] * rng.randint(1, 90), max_tokens=rng.randint(1, 60)))
        for _ in range(4):
            finished += [output.request_id for output in core.step().outputs if output.finish_reason]
        core.check_integrity()
    oldest = min({f"{number:03}" for number in range(60)} - set(finished))
    for _ in range(90):
        finished += [output.request_id for output in core.step().outputs if output.finish_reason]
    assert oldest in finished


# ---- memory ----
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 4]), st.booleans())
def test_less_than_five_percent_of_the_kv_memory_is_wasted(seed: int, n: int, prefix_caching: bool) -> None:
    """Waste: slots of held blocks without a token / slots of held blocks, over all steps of a realistic load:
    prompts around 500 tokens, answers around 130, both with long tails; shared blocks count once."""
    rng = random.Random(seed)
    scheduler = scheduler_of(
        blocks=2000,
        max_model_len=4096,
        max_num_seqs=32,
        max_num_batched_tokens=1024,
        prefix_caching=prefix_caching,
    )
    for number in range(40):
        length = min(3000, max(8, int(rng.lognormvariate(6.0, 0.7))))
        answer = min(1000, max(4, int(rng.lognormvariate(4.6, 0.7))))
        scheduler.add(request(str(number), [number] * length, n=n, max_tokens=answer))
    held = used = 0
    while scheduler.has_work():
        scheduler.update(sampled(scheduler.schedule()))
        tokens = tokens_by_block(scheduler)
        held += 16 * len(tokens)
        used += sum(tokens.values())
    assert held > 0
    assert (held - used) / held < 0.05


def tokens_by_block(scheduler: Scheduler) -> dict[int, int]:
    """How many slots of each held block hold a token."""
    tokens: dict[int, int] = {}
    for seq in scheduler.batch.running:
        for index, block in enumerate(seq.block_table):
            tokens[block] = max(tokens.get(block, 0), min(16, seq.num_computed - 16 * index))
    return tokens
