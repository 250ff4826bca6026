"""The simulated HPA does what autoscaling/v2 documents, and the simulated fleet loses no request."""

import numpy as np
import pytest
from bench.scaling.__main__ import flaps, simulate
from bench.scaling.fleet import STEP, Engine, Fleet
from bench.scaling.hpa import Autoscaler, Behavior, Policy, recommend
from bench.scaling.traffic import synthetic
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("replicas", "values", "wanted"),
    [
        pytest.param(2, [15, 15], 3, id="half more than the target"),
        pytest.param(4, [5, 5, 5, 5], 2, id="half of the target"),
        pytest.param(2, [10.9, 10.9], 2, id="within the tolerance"),
        pytest.param(3, [], 3, id="no pod has a value"),
        pytest.param(4, [30, 30], 6, id="pods without a value count as 0 upwards"),
        pytest.param(4, [11.5, 11.5], 4, id="and may turn it, which changes nothing"),
        pytest.param(4, [2, 2], 3, id="pods without a value count as on target downwards"),
    ],
)
def test_one_metric(replicas: int, values: list[float], wanted: int) -> None:
    assert recommend(replicas, values, 10) == wanted


def numbers(scaler: Autoscaler, start: int, told: list[float]) -> list[int]:
    found = [start]
    for index, value in enumerate(told):
        found.append(scaler.step(15.0 * index, found[-1], {"queueDepth": [value] * found[-1]}))
    return found[1:]


def test_going_up_is_bounded_by_the_policy_that_allows_most() -> None:
    assert numbers(Autoscaler({"queueDepth": 10}, 1, 100), 1, [1000, 1000, 1000]) == [5, 10, 20]


def test_going_down_waits_for_the_window() -> None:
    found = numbers(Autoscaler({"queueDepth": 10}, 1, 9), 8, [10] + [1] * 21)
    assert found[:20] == [8] * 20
    assert found[-1] == 1


def test_a_gentle_policy_takes_one_pod_a_minute() -> None:
    gentle = Behavior(down=(Policy(60, pods=1),), down_window=0)
    assert numbers(Autoscaler({"queueDepth": 10}, 1, 9), 1, [10]) == [1]
    assert numbers(Autoscaler({"queueDepth": 10}, 1, 9, gentle), 8, [1] * 9) == [7, 7, 7, 7, 6, 6, 6, 6, 5]


def test_flaps_are_quick_changes_of_direction() -> None:
    assert flaps([(0, 2), (15, 1), (300, -1), (1000, 1), (1100, -1)]) == 2


@given(st.integers(0, 5), st.floats(0.5, 20))
def test_every_request_gets_its_first_token_after_it_came(seed: int, rate: float) -> None:
    traffic = synthetic("bursts", rate, 60, seed)
    fleet = Fleet(Engine(), traffic.prompts, traffic.outputs)
    fleet.scale(2, 0.0, start=0.0)
    sent, now = 0, 0.0
    while np.isnan(fleet.first_tokens).any() and now < 600:
        until = int(np.searchsorted(traffic.arrivals, now, side="right"))
        fleet.step(now, range(sent, until))
        sent, now = until, now + STEP
    assert (fleet.first_tokens >= traffic.arrivals).all()


def test_more_pods_make_fewer_requests_late() -> None:
    traffic = synthetic("steps", 60, 600)
    few = simulate(traffic, {"concurrency": 64}, Behavior(), 1)
    many = simulate(traffic, {"concurrency": 64}, Behavior(), 8)
    assert many.late_percent < few.late_percent
    assert many.gpu_hours > few.gpu_hours
