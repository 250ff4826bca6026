"""Which pod is picked: the policies alone, over pods that only have a load."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.policies import (
    LeastLoad,
    Policies,
    Policy,
    Prefix,
    RoundRobin,
    Session,
    load_limit,
    preferred,
)
from octavo_router.prefix import PrefixTable
from octavo_router.prompt import Features, read_body

LOADS = st.lists(st.integers(0, 9), min_size=1, max_size=70)


@dataclass(eq=False)
class Pod:
    load: int = 0
    salt: int = 0


def pods(loads: list[int]) -> list[Pod]:
    chance = random.Random(7)
    return [Pod(load, chance.getrandbits(64)) for load in loads]


def asking(prompt: str = "", session: str = "") -> Features:
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    return Features(read_body(body), [(b"s", session.encode())], b"s")


def words(seed: int, count: int = 500) -> str:
    return " ".join(random.Random(seed).choices(["alpha", "beta", "gamma", "delta"], k=count))


@given(LOADS, st.integers(0, 99))
def test_the_least_loaded_is_picked(loads: list[int], turns: int) -> None:
    policy, candidates = LeastLoad(), pods(loads)
    for _ in range(turns % 5):
        policy.choose(candidates, asking())
    assert policy.choose(candidates, asking()).load == min(loads)


@pytest.mark.parametrize("load", [0, 3])
@pytest.mark.parametrize("policy", [LeastLoad(), RoundRobin(), Session(1.25)])
def test_equals_take_turns(policy: Policy, load: int) -> None:
    candidates = pods([load] * 4)
    picks = Counter(id(policy.choose(candidates, asking())) for _ in range(8))
    assert sorted(picks.values()) == [2, 2, 2, 2]


def test_round_robin_looks_at_no_load() -> None:
    policy, candidates = RoundRobin(), pods([9, 0])
    assert {policy.choose(candidates, asking()).load for _ in range(2)} == {9, 0}


@given(LOADS, st.floats(1, 3))
def test_some_pod_is_always_below_the_limit(loads: list[int], bound: float) -> None:
    assert min(loads) < load_limit(pods(loads), bound)


@given(LOADS, st.integers(0, 2**64 - 1), st.floats(1, 3))
def test_the_preferred_pod_is_below_the_limit(loads: list[int], key: int, bound: float) -> None:
    candidates = pods(loads)
    limit = load_limit(candidates, bound)
    assert preferred(candidates, key, limit).load < limit


@given(st.integers(2, 40), st.integers(0, 2**64 - 1))
def test_a_pod_that_goes_moves_only_its_own_keys(count: int, key: int) -> None:
    candidates = pods([0] * count)
    before = preferred(candidates, key, 9)
    others = [c for c in candidates if c is not candidates[0]]
    assert before is candidates[0] or preferred(others, key, 9) is before


def test_keys_spread_evenly() -> None:
    candidates, chance = pods([0] * 64), random.Random(1)
    picks = Counter(preferred(candidates, chance.getrandbits(64), 9).salt for _ in range(64_000))
    assert len(picks) == 64
    assert max(picks.values()) < 1300
    assert min(picks.values()) > 700


def test_a_session_stays_until_its_pod_is_too_loaded() -> None:
    policy, candidates = Session(1.25), pods([0] * 8)
    first = policy.choose(candidates, asking(session="ada"))
    assert all(policy.choose(candidates, asking(words(n), "ada")) is first for n in range(9))
    first.load = 40
    assert policy.choose(candidates, asking(session="ada")) is not first


def made_prefix(capacity: int = 10_000) -> Prefix:
    return Prefix(1.25, PrefixTable(capacity))


def test_a_prompt_that_goes_on_goes_to_the_pod_that_has_its_beginning() -> None:
    policy, candidates = made_prefix(), pods([0] * 16)
    for seed in range(20):
        first = policy.choose(candidates, asking(words(seed)))
        assert policy.choose(candidates, asking(words(seed) + words(seed + 1))) is first


def test_the_pod_that_has_more_of_it_wins() -> None:
    policy, candidates = made_prefix(), pods([0] * 4)
    shared = words(1)
    one = policy.choose(candidates, asking(shared + words(2)))
    two = policy.choose([c for c in candidates if c is not one], asking(shared + words(3)))
    assert policy.choose(candidates, asking(shared + words(2) + "x")) is one
    assert policy.choose(candidates, asking(shared + words(3) + "x")) is two
    assert policy.choose(candidates, asking(shared + "?")) in (one, two)


def test_a_beginning_that_all_share_keeps_them_not_together() -> None:
    policy, candidates = made_prefix(), pods([0] * 16)
    picks = {id(policy.choose(candidates, asking(words(0, 100) + words(seed)))) for seed in range(1, 40)}
    assert len(picks) > 8


def test_a_pod_with_the_beginning_is_passed_over_when_it_is_too_loaded() -> None:
    policy, candidates = made_prefix(), pods([2] * 4)
    first = policy.choose(candidates, asking(words(1)))
    first.load = 10
    second = policy.choose(candidates, asking(words(1)))
    assert second is not first
    first.load = 2
    assert policy.choose(candidates, asking(words(1))) in (first, second)


def test_routers_that_know_nothing_of_each_other_agree_on_a_conversation() -> None:
    candidates = pods([0] * 16)
    for seed in range(20):
        picks = {id(made_prefix().choose(candidates, asking(words(seed, 9)))) for _ in range(3)}
        assert len(picks) == 1


def test_without_a_prompt_the_least_loaded_is_picked() -> None:
    assert made_prefix().choose(pods([3, 1, 2]), Features(read_body(b'{"model": "m"}'))).load == 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 7)), max_size=60))
def test_load_stays_within_the_bound_whatever_is_asked(requests: list[tuple[int, int]]) -> None:
    policy, candidates = made_prefix(), pods([0] * 8)
    for seed, leaving in requests:
        limit = load_limit(candidates, 1.25)
        chosen = policy.choose(candidates, asking(words(seed, 200)))
        chosen.load += 1
        assert chosen.load <= limit
        candidates[leaving].load = max(0, candidates[leaving].load - 1)


def test_a_policy_that_is_not_known_is_the_default() -> None:
    policies = Policies("round-robin")
    assert policies.of(None) is policies.of("of-the-future") is policies.of("round-robin")
    assert policies.of("prefix") is not policies.of("session")
