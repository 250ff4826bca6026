"""Who may lead, by the Lease and the standby's own clock."""

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.lease import (
    DEADLINE,
    DURATION,
    RETRY,
    Lease,
    Patience,
    decode_lease,
    document,
    held,
    released,
)

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=datetime.UTC)
EARLIER = NOON - datetime.timedelta(hours=1)


def stored(spec: dict[str, Any], version: int = 7) -> Lease:
    """The spec as the API server gives it back."""
    found = document("here", "octavo-operator", spec)
    found["metadata"]["resourceVersion"] = str(version)
    return decode_lease(json.dumps(found).encode())


def test_a_leader_stops_well_before_a_standby_starts() -> None:
    assert 2 * RETRY < DEADLINE <= DURATION - RETRY
    assert DURATION < 15


def test_the_first_leader_acquires_without_a_transition() -> None:
    spec = held(None, "a", NOON)
    assert spec["acquireTime"] == spec["renewTime"] == "2026-01-02T12:00:00.000005Z"
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("a", 0)


def test_a_renewal_keeps_the_time_of_acquisition() -> None:
    spec = held(stored(held(None, "a", EARLIER)), "a", NOON)
    assert (spec["acquireTime"][11:13], spec["renewTime"][11:13]) == ("11", "12")
    assert spec["leaseTransitions"] == 0


def test_every_change_of_holder_is_counted() -> None:
    first = stored(held(None, "a", EARLIER))
    second = stored(held(first, "b", NOON))
    cleared = stored(released(second))
    assert (cleared.holder, cleared.renewed) == ("", None)
    assert stored(held(cleared, "a", NOON)).transitions == 2


@pytest.mark.parametrize(
    ("lease", "seconds"),
    [
        (None, 0.0),
        (stored(released(stored(held(None, "b", NOON)))), 0.0),
        (stored(held(None, "a", NOON)), 0.0),
        (stored(held(None, "b", EARLIER)), float(DURATION)),
    ],
    ids=["no Lease", "a cleared one", "its own of before a restart", "another's, however old"],
)
def test_a_candidate_waits_only_for_another(lease: Lease | None, seconds: float) -> None:
    patience = Patience("a")
    patience.heard(lease, 100.0)
    assert patience.seconds(100.0) == seconds


@pytest.mark.parametrize(
    "after",
    [None, stored({**held(None, "b", NOON), "holderIdentity": ""})],
    ids=["deleted", "emptied by hand"],
)
def test_what_was_held_and_not_released_is_held_for_as_long_again(after: Lease | None) -> None:
    patience = Patience("a")
    patience.heard(stored(held(None, "b", NOON)), 100.0)
    patience.heard(after, 101.0)
    assert patience.seconds(101.0) == DURATION
    assert patience.seconds(101.0 + DURATION) == 0.0


def test_what_was_released_is_free_even_when_it_is_then_deleted() -> None:
    patience, lease = Patience("a"), stored(held(None, "b", NOON))
    patience.heard(lease, 100.0)
    patience.heard(stored(released(lease)), 101.0)
    patience.heard(None, 101.0)
    assert patience.seconds(101.0) == 0.0


@given(st.lists(st.floats(0.1, DURATION - 0.1), min_size=1, max_size=20))
def test_nobody_takes_a_lease_that_is_renewed(gaps: list[float]) -> None:
    patience, now = Patience("a"), 0.0
    for number, gap in enumerate(gaps):
        patience.heard(stored(held(None, "b", NOON + number * datetime.timedelta(seconds=2)), number), now)
        now += gap
        assert patience.seconds(now) > 0


def test_a_change_that_is_no_renewal_gives_no_time() -> None:
    patience, spec = Patience("a"), held(None, "b", NOON)
    patience.heard(stored(spec, 1), 0.0)
    patience.heard(stored(spec, 2), 10.0)
    assert patience.seconds(DURATION) == 0.0
