"""Breakers and retry budgets, by a clock that the tests set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.breaker import FAULTS, Breaker, Limits, RetryBudget

LIMITS = Limits(ejection_s=2, longest_ejection_s=10, retry_ratio=0.2, retry_burst=10)


def test_a_failure_opens_it_for_its_time_and_of_one_incident_only_the_first_counts() -> None:
    breaker = Breaker(LIMITS)
    assert breaker.admits(0)
    assert [breaker.fail(1), breaker.fail(1.5), breaker.fail(2.9)] == [True, False, False]
    assert [breaker.admits(at) for at in (1, 2.9, 3)] == [False, False, True]


def test_half_open_it_admits_one_trial_at_a_time() -> None:
    breaker = Breaker(LIMITS)
    breaker.fail(0)
    breaker.tried(2)
    assert [breaker.admits(at) for at in (2.5, 3.9, 4)] == [False, False, True]


def test_a_trial_that_fails_doubles_the_time_up_to_the_longest() -> None:
    breaker, now, times = Breaker(LIMITS), 0.0, []
    for _ in range(5):
        assert breaker.fail(now)
        times.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.tried(now)
    assert times == [2, 4, 8, 10, 10]


def test_a_success_closes_it_and_forgets() -> None:
    breaker = Breaker(LIMITS)
    breaker.fail(0)
    breaker.tried(2)
    breaker.succeed()
    assert breaker.closed
    assert breaker.admits(2.1)
    breaker.fail(3)
    assert breaker.open_until == 5


def test_faults_open_it_only_in_a_row() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(FAULTS - 1):
        assert not breaker.fault(0)
    breaker.succeed()
    assert [breaker.fault(0) for _ in range(FAULTS)] == [False] * (FAULTS - 1) + [True]


def test_a_burst_of_retries_is_allowed_and_fills_up_again() -> None:
    budget = RetryBudget(LIMITS)
    assert [budget.take(1, 0) for _ in range(11)] == [True] * 10 + [False]
    assert [budget.take(2, 0), budget.take(2, 0)] == [True, False]


@pytest.mark.parametrize(("ratio", "allowed"), [(0.2, 20), (0.5, 50), (0, 0)])
def test_over_time_retries_are_a_share_of_the_requests(ratio: float, allowed: int) -> None:
    budget = RetryBudget(Limits(retry_ratio=ratio, retry_burst=1))
    budget.take(0, 0)
    taken = sum(budget.take(0, requests) for requests in range(100) for _ in range(3))
    assert allowed - 1 <= taken <= allowed


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), max_size=80))
def test_there_are_never_more_retries_than_earned(steps: list[tuple[float, int]]) -> None:
    budget, now, requests, taken = RetryBudget(LIMITS), 0.0, 0, 0
    for wait, more in steps:
        now, requests = now + wait, requests + more
        taken += budget.take(now, requests)
    assert taken <= 10 + 0.2 * requests + 1.0 * now + 1e-6
