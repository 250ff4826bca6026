"""The simulated HPA does what autoscaling/v2 documents, and the simulated fleet loses no request."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bench.scaling.__main__ import BEHAVIORS, DEFAULT, SIGNALS, flaps, keep, row, simulate, ways
from bench.scaling.fleet import STEP, Engine, Fleet
from bench.scaling.hpa import SYNC_SECONDS, Autoscaler, Behavior, Policy, recommend
from bench.scaling.traffic import recorded, synthetic
from hypothesis import given
from hypothesis import strategies as st
from manifests.render import CHART

from octavo_operator.scaling.samples import WINDOW, WINDOW_SECONDS
from octavo_operator.scaling.scraper import INTERVAL


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


def test_an_hpa_hears_the_mean_of_the_operators_window() -> None:
    prompts = np.full(100, 700)
    fleet = Fleet(Engine(), prompts, np.full(100, 10_000))
    fleet.scale(1, 0.0, start=0.0)
    told, scrapes = [], int(SYNC_SECONDS / INTERVAL)
    for index in range(scrapes):
        now = index * INTERVAL
        fleet.step(now, range(index, index + 1))
        told.append(fleet.metrics(now)["concurrency"])
        fleet.scrape(now)
    assert told[0] == []  # no sample yet
    counted = [n for n in range(scrapes - WINDOW, scrapes) if (scrapes - 1 - n) * INTERVAL < WINDOW_SECONDS]
    assert told[-1] == [sum(counted) / len(counted)]


def test_pods_are_scraped_at_the_operators_interval() -> None:
    fleet = Fleet(Engine(), np.full(8, 700), np.full(8, 10_000))
    fleet.scale(1, 0.0, start=0.0)
    told = []
    for index in range(8):
        fleet.step(index * STEP, range(index, index + 1))
        fleet.scrape(index * STEP)
        told.append(fleet.metrics(index * STEP)["concurrency"][0])
    changes = [index * STEP for index in range(1, 8) if told[index] != told[index - 1]]
    assert changes == [INTERVAL, 2 * INTERVAL]


def test_a_prompt_that_takes_longer_than_a_step_holds_up_the_next() -> None:
    engine = Engine(prefill_per_second=1000)
    fleet = Fleet(engine, np.array([1000, 500]), np.array([1, 1]))
    fleet.scale(1, 0.0, start=0.0)
    for index in range(10):
        fleet.step(index * STEP, range(2) if index == 0 else range(0))
    assert fleet.first_tokens == pytest.approx([1.0, 1.5])


def test_the_default_is_the_charts() -> None:
    chart = yaml.safe_load((CHART / "values.yaml").read_text())["operator"]["scalingDefaults"]
    behavior = chart.pop("behavior")
    signal, name = DEFAULT
    assert SIGNALS[signal] == chart
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert BEHAVIORS[name] == Behavior(
        policies(up), policies(down), up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]
    )
    assert DEFAULT in ways()


def policies(rules: dict[str, Any]) -> tuple[Policy, ...]:
    return tuple(
        Policy(each["periodSeconds"], **{{"Pods": "pods", "Percent": "percent"}[each["type"]]: each["value"]})
        for each in rules["policies"]
    )


def test_a_traffics_rows_are_replaced_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scaling.__main__.RESULT", tmp_path / "scaling.json")
    found = simulate(synthetic("steps", 20, 60), {"concurrency": 64}, Behavior(), 1)
    keep("late.steps.1.", [row("steps.1.a", found, "old"), row("steps.1.b", found, "old")])
    keep("late.steps.16.", [row("steps.16.a", found, "old")])
    keep("late.steps.1.", [row("steps.1.a", found, "new")])
    kept = {
        each["figure"]: each["conditions"] for each in json.loads((tmp_path / "scaling.json").read_text())
    }
    assert {name: text.rpartition("; ")[2] for name, text in kept.items()} == {
        "late.steps.16.a": "old",
        "late.steps.1.a": "new",
    }


def test_a_recording_is_read_in_order_and_so_many_times_over(tmp_path: Path) -> None:
    path = tmp_path / "chats.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n"
    )
    traffic = recorded(path, 3)
    assert traffic.name == "chats_x3"
    assert len(traffic.arrivals) == 6
    assert (np.diff(traffic.arrivals) >= 0).all()
    assert sorted(zip(traffic.prompts.tolist(), traffic.outputs.tolist(), strict=True)) == sorted(
        [(374, 44), (396, 109)] * 3
    )
