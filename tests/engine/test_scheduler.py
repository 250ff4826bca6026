"""The scheduler's decisions, one by one, and the properties that hold for all of them."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
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

from octavo_engine.config import ParallelConfig
from octavo_engine.engine import EngineCore
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.messages import AddRequest, SampledToken, SequenceOutput, StepInput, StepResult
from octavo_engine.scheduler import Scheduler

EOS = 2


def scheduler_of(
    *, blocks: int = 100, host_blocks: int = 0, max_model_len: int = 160, stages: int = 1, **settings: object
) -> Scheduler:
    return Scheduler(
        msgspec.structs.replace(engine_config(**settings), parallel=ParallelConfig(pipeline=stages)),
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


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("found", [True, False])
def test_nobody_finds_what_a_failed_sequence_computed(chunks: int, found: bool) -> None:
    scheduler = scheduler_of(max_num_batched_tokens=64 // chunks)
    if found:  # by one that left before its numbers could be looked at
        scheduler.add(request("gone", [1] * 40, max_tokens=1))
        step_of(scheduler)
        scheduler.abort("gone")
    scheduler.add(request("bad", [1] * 64, n=2))
    steps = [step_of(scheduler)]
    while not steps[-1].sequences[-1].sample:
        steps.append(step_of(scheduler))
    failed = StepResult(steps[-1].step_id, [], {steps[-1].sequences[-1].seq_id: "Not a number."})
    step_of(scheduler)
    assert [output.error for output in scheduler.update(failed)] == ["Not a number."]
    scheduler.check_integrity()
    scheduler.abort("bad")
    scheduler.add(request("good", [1] * 64, max_tokens=1))
    assert {seq.num_computed_tokens for seq in step_of(scheduler).sequences} == {0}
    assert scheduler.stats(0).num_running == 1


def preempted_in_flight() -> tuple[Scheduler, list[StepInput]]:
    """ "b" has given way to "a"; the steps that were launched before are still at work."""
    scheduler = scheduler_of(blocks=10, max_num_batched_tokens=200)
    scheduler.add(request("a", [1] * 76, max_tokens=None))
    scheduler.add(request("b", [2] * 47, max_tokens=None))
    launched = []
    while not scheduler.stats(0).preemptions:
        launched.append(step_of(scheduler))
    return scheduler, launched


def test_a_sequence_that_fails_while_it_is_preempted_is_not_found_either() -> None:
    scheduler, launched = preempted_in_flight()
    (victim,) = scheduler.batch.waiting
    scheduler.update(StepResult(launched[0].step_id, [], {victim.seq_id: "Not a number."}))
    scheduler.abort("a")
    scheduler.check_integrity()
    scheduler.add(request("c", [2] * 47, max_tokens=1))
    assert shape(step_of(scheduler)) == [(0, 47, True)]


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
    """Else the victim would come in again at once, and be preempted by the next who wants a block."""
    scheduler = scheduler_of(blocks=10, max_num_batched_tokens=200)
    for name in (0, 1, 2):
        scheduler.add(request(str(name), [name] * 44, max_tokens=100))
    step = step_of(scheduler)
    while not scheduler.stats(0).preemptions:
        finish_step(scheduler, step)
        step = step_of(scheduler)
    assert step.starts == []


def test_a_preempted_sequence_waits_for_its_token_in_flight() -> None:
    scheduler, launched = preempted_in_flight()
    scheduler.abort("a")
    assert scheduler.schedule() is None
    for step in launched:
        finish_step(scheduler, step)
    (start,) = step_of(scheduler).starts
    assert start.token_ids == [2] * 47 + [1] * (len(start.token_ids) - 47)
    assert len(start.token_ids) > 48


# ---- urgent newcomers ----
def urgent_case(blocks: int, **settings: object) -> tuple[EngineCore, FakeRunner, list[AddRequest]]:
    """An engine in which four usual requests decode, and these requests."""
    core, runner = start_engine(engine_config(blocks=blocks, policy="priority", **settings))
    usual = [request(f"usual-{number}", [number] * 44, priority=1, max_tokens=60) for number in range(4)]
    for each in usual:
        core.add(each)
    return core, runner, usual


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize(
    ("blocks", "places"), [pytest.param(20, 8, id="no blocks"), pytest.param(100, 4, id="no places")]
)
def test_an_urgent_newcomer_takes_the_room_of_the_least_urgent(
    blocks: int, places: int, in_flight: int, mode: str
) -> None:
    """Its prompt goes on in every step from then on, and everybody's tokens are those of an idle engine."""
    core, runner, usual = urgent_case(
        blocks,
        max_num_seqs=places,
        max_num_batched_tokens=16,
        steps_in_flight=in_flight,
        preemption_mode=mode,
        host_blocks=8,
    )
    outputs: list[SequenceOutput] = []
    while core.stats.prompt_tokens < 4 * 44:
        outputs += core.step().outputs
    before = core.stats.preemptions
    urgent = request("urgent", [*range(3, 48), *[4] * 100], priority=0, max_tokens=10)
    core.add(urgent)
    outputs += core.step().outputs
    assert before < core.stats.preemptions <= before + 2
    computed: list[int] = []
    while not any(output.request_id == "urgent" for output in outputs):
        outputs += core.step().outputs
        core.check_integrity()
        computed += [row.num_computed for row in runner.rows.values() if row.num_prompt_tokens == 145]
    assert all(earlier < later for earlier, later in pairwise(computed))
    assert len(computed) <= 145 // 12 + 3
    outputs += drain(core)
    assert tokens_by_sequence(outputs) == generate(engine_config(), [*usual, urgent])


@pytest.mark.parametrize(
    ("policy", "priority", "length"),
    [
        pytest.param("fcfs", 0, 140, id="the policy knows no priorities"),
        pytest.param("priority", 1, 140, id="it is as urgent as the others"),
        pytest.param("priority", 0, 4, id="there is room"),
    ],
)
def test_nobody_gives_way_when(policy: str, priority: int, length: int) -> None:
    scheduler = scheduler_of(blocks=20, max_num_batched_tokens=200, policy=policy)
    for number in range(4):
        scheduler.add(request(str(number), [number] * 44, priority=1, max_tokens=4))
    finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("newcomer", [9] * length, priority=priority))
    finish_step(scheduler, step_of(scheduler))
    assert scheduler.stats(0).preemptions == 0


def test_nobody_gives_way_in_vain() -> None:
    """The third newcomer is as urgent as those two who hold nearly everything."""
    scheduler = scheduler_of(blocks=20, max_num_batched_tokens=400, policy="priority")
    scheduler.add(request("usual", [1] * 44, priority=2, max_tokens=50))
    for name in "ab":
        scheduler.add(request(name, [ord(name) - 90] * 100, priority=1, max_tokens=50))
    finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("c", [3] * 150, priority=1, max_tokens=1))
    finish_step(scheduler, step_of(scheduler))
    assert scheduler.stats(0).preemptions == 0
    assert len(scheduler.batch.running) == 3


def test_answers_that_share_a_prompt_free_it_only_together() -> None:
    scheduler = scheduler_of(blocks=20, max_num_batched_tokens=400, policy="priority")
    scheduler.add(request("usual", [1] * 150, priority=1, n=3, max_tokens=50))
    for _ in range(2):
        finish_step(scheduler, step_of(scheduler))
    scheduler.add(request("urgent", [2] * 150, priority=0))
    finish_step(scheduler, step_of(scheduler))
    assert [seq.request.request_id for seq in scheduler.batch.running] == ["urgent"]
    assert scheduler.stats(0).preemptions == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["recompute", "swap"]), st.sampled_from([1, 2]))
def test_requests_of_mixed_priorities_get_the_tokens_of_an_idle_engine(
    seed: int, mode: str, in_flight: int
) -> None:
    rng = random.Random(seed)
    config = engine_config(
        blocks=rng.randint(10, 30),
        host_blocks=10,
        preemption_mode=mode,
        steps_in_flight=in_flight,
        policy="priority",
        max_num_seqs=rng.randint(2, 6),
        max_num_batched_tokens=rng.choice([4, 16, 48]),
    )
    requests = [
        request(
            str(number),
            [number % 5] * rng.randint(1, 90),
            priority=rng.randint(0, 2),
            max_tokens=rng.randint(1, 40),
            n=rng.choice([1, 1, 2]),
        )
        for number in range(16)
    ]
    core, _ = start_engine(config)
    outputs: list[SequenceOutput] = []
    for each in requests:
        core.add(each)
        for _ in range(rng.randint(0, 6)):
            outputs += core.step().outputs
            core.check_integrity()
    outputs += drain(core)
    assert tokens_by_sequence(outputs) == generate(engine_config(), requests)


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


def test_the_stages_of_a_pipeline_have_disjoint_decodes_to_work_on() -> None:
    scheduler = scheduler_of(stages=2)
    for name in "abcde":
        scheduler.add(request(name, prompt=range(4), max_tokens=20))
    finish_step(scheduler, step_of(scheduler))
    in_flight = [step_of(scheduler), step_of(scheduler)]
    parts = [{seq.seq_id for seq in step.sequences} for step in in_flight]
    assert [len(part) for part in parts] == [3, 2]
    assert not parts[0] & parts[1]
    assert scheduler.schedule() is None  # until the first of them is collected
    finish_step(scheduler, in_flight[0])
    assert {seq.seq_id for seq in step_of(scheduler).sequences} == parts[0]


def test_the_chunks_of_one_prompt_follow_each_other_through_a_pipeline() -> None:
    scheduler = scheduler_of(stages=2, max_num_batched_tokens=8)
    scheduler.add(request("a", prompt=range(24), max_tokens=2))
    steps = [step_of(scheduler) for _ in range(3)]
    assert [(s.num_computed_tokens, s.sample) for step in steps for s in step.sequences] == [
        (0, False),
        (8, False),
        (16, True),
    ]
    assert scheduler.schedule() is None
