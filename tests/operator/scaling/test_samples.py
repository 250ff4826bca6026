import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.names import KV_CACHE_USAGE, REQUESTS_WAITING
from octavo_operator.scaling.documents import Value, discovery, quantity, value_list
from octavo_operator.scaling.samples import STALE_SECONDS, Sample, Samples, parse
from octavo_operator.scaling.scraper import INTERVAL

POD = ("default", "p")


def test_waiting_adds_up_and_the_largest_usage_counts() -> None:
    text = """# HELP octavo_num_requests_waiting x
octavo_num_requests_waiting{engine="0",model="a b"} 3
octavo_num_requests_waiting{engine="1"} 4.0 1700000000
octavo_kv_cache_usage_ratio{engine="0"} 0.2
octavo_kv_cache_usage_ratio{engine="1"} 0.7
octavo_num_requests_waiting_total 9
"""
    assert parse(text) == {REQUESTS_WAITING: 7, KV_CACHE_USAGE: 0.7}


def test_metrics_without_labels_are_read() -> None:
    assert parse("octavo_num_requests_waiting 2\n") == {REQUESTS_WAITING: 2}


@pytest.mark.parametrize("rest", [" many", "", " ", '{engine="0"}', '{engine="0"} '])
def test_what_is_no_exposition_is_an_error(rest: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        parse(f"octavo_num_requests_waiting{rest}\n")


def test_an_unknown_usage_is_not_taken_for_none() -> None:
    assert math.isnan(parse("octavo_kv_cache_usage_ratio NaN\n")[KV_CACHE_USAGE])


@pytest.mark.parametrize(("age", "there"), [(0.0, True), (STALE_SECONDS, True), (STALE_SECONDS + 0.1, False)])
def test_stale_samples_are_withheld(age: float, there: bool) -> None:
    samples = Samples()
    samples.take(POD, Sample({REQUESTS_WAITING: 1}, at=100))
    assert (samples.get(POD, REQUESTS_WAITING, 100 + age) is not None) is there


def test_an_hpa_hears_the_mean_of_the_last_seconds_with_the_time_of_the_last() -> None:
    samples = Samples()
    for number, waiting in enumerate([9.0, 0.0, 4.0, 0.0, 5.0]):
        samples.take(POD, Sample({REQUESTS_WAITING: waiting}, at=100 + number * INTERVAL))
    last = 100 + 4 * INTERVAL
    assert samples.get(POD, REQUESTS_WAITING, last) == (3, last)


def test_what_an_hpa_hears_just_before_the_next_sample_is_less_than_two_seconds_old() -> None:
    """The value of each sample is its time, so that a mean tells its own age."""
    samples = Samples()
    for number in range(10):
        samples.take(POD, Sample({REQUESTS_WAITING: number * INTERVAL}, at=number * INTERVAL))
    next_at = 10 * INTERVAL
    heard = samples.get(POD, REQUESTS_WAITING, next_at)
    assert heard is not None
    assert next_at - heard[0] == 2 * INTERVAL < 2


def test_samples_from_before_a_gap_do_not_count() -> None:
    samples = Samples()
    samples.take(POD, Sample({REQUESTS_WAITING: 100}, at=90))
    samples.take(POD, Sample({REQUESTS_WAITING: 2}, at=100))
    assert samples.get(POD, REQUESTS_WAITING, 100) == (2, 100)


def test_pods_that_are_gone_are_forgotten() -> None:
    samples = Samples()
    samples.take(POD, Sample({REQUESTS_WAITING: 1}, at=100))
    samples.keep([("default", "other")])
    assert samples.get(POD, REQUESTS_WAITING, 100) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (7, "7"), (0.375, "375m"), (1.5, "1500m"), (0.0004, "0")]
)
def test_quantity(value: float, text: str) -> None:
    assert quantity(value) == text


@given(st.floats(0, 1e6))
def test_quantities_keep_thousandths(value: float) -> None:
    text = quantity(value)
    read = int(text[:-1]) / 1000 if text.endswith("m") else int(text)
    assert abs(read - value) <= 0.0005 + value * 1e-9


def test_both_versions_name_the_metric_in_their_way() -> None:
    value = Value("default", "p", REQUESTS_WAITING, 2, at=0)
    [older] = value_list("v1beta1", [value])["items"]
    [newer] = value_list("v1beta2", [value])["items"]
    assert older["metricName"] == newer["metric"]["name"] == REQUESTS_WAITING
    assert older["timestamp"] == "1970-01-01T00:00:00Z"
    assert discovery("v1beta2")["groupVersion"] == "custom.metrics.k8s.io/v1beta2"


@pytest.mark.parametrize("unusable", [math.nan, math.inf, -math.inf, 1e308])
def test_a_value_that_no_quantity_can_tell_is_left_out(unusable: float) -> None:
    values = [
        Value("default", name, REQUESTS_WAITING, value, at=0) for name, value in (("p", unusable), ("q", 2))
    ]
    [only] = value_list("v1beta2", values)["items"]
    assert only["describedObject"]["name"] == "q"
