import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.names import PROMPT_TOKENS, REQUESTS_IN_FLIGHT
from octavo_operator.scaling.activity import Activity, Values

KEY = ("default", "smollm2")


def told(in_flight: float = 0, tokens: float = 0) -> Values:
    return {REQUESTS_IN_FLIGHT: in_flight, PROMPT_TOKENS: tokens}


def idle_after(*looks: tuple[list[Values | None], str]) -> float:
    """Idle seconds at the last of looks that are ten seconds apart."""
    activity = Activity()
    for second, (pods, wake) in enumerate(looks):
        activity.look(KEY, pods, wake, 10.0 * second)
    return activity.idle_seconds(KEY, 10.0 * (len(looks) - 1))


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [
        pytest.param([([told()], ""), ([told()], ""), ([told()], "")], 20, id="nothing to do"),
        pytest.param([([told()], ""), ([told(1)], ""), ([told()], "")], 10, id="a request that runs"),
        pytest.param(
            [([told()], ""), ([told()], ""), ([told(0, 7)], "")], 0, id="a request between two looks"
        ),
        pytest.param([([told()], ""), ([told()], ""), ([None], "")], 0, id="a pod that does not answer"),
        pytest.param([([told()], ""), ([told()], "w"), ([told()], "w")], 10, id="a wake-up call"),
        pytest.param([([told()], ""), ([told(), told(2)], "")], 0, id="one of two pods at work"),
    ],
)
def test_idle_is_since_when_there_was_nothing_to_do(
    looks: list[tuple[list[Values | None], str]], seconds: float
) -> None:
    assert idle_after(*looks) == seconds


def test_what_was_not_looked_at_is_not_idle() -> None:
    activity = Activity()
    assert activity.idle_seconds(KEY, 1e9) == 0
    activity.look(KEY, [told()], "", 5)
    activity.keep([])
    assert activity.idle_seconds(KEY, 1e9) == 0


def test_a_word_wakes_once_and_before_any_look_at_the_pod_that_it_starts() -> None:
    activity = Activity()
    activity.look(KEY, [told()], "", 0)
    activity.wake(KEY, "", 20)
    assert activity.idle_seconds(KEY, 20) == 20
    activity.wake(KEY, "w", 20)
    activity.wake(KEY, "w", 30)
    assert activity.idle_seconds(KEY, 30) == 10


@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.builds(told, st.integers(0, 3), st.just(0))), max_size=3), min_size=1
    )
)
def test_work_at_a_look_is_never_forgotten(looks: list[list[Values | None]]) -> None:
    activity, last = Activity(), 0
    for second, pods in enumerate(looks):
        activity.look(KEY, pods, "", second)
        if any(pod is None or pod[REQUESTS_IN_FLIGHT] for pod in pods):
            last = second
        assert activity.idle_seconds(KEY, second) <= second - last
