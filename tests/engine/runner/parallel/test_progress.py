"""Which ranks hang, by what they say of their work."""

from __future__ import annotations

import pytest

from octavo_engine.runner.parallel.progress import Progress
from octavo_engine.runner.parallel.wire import Beat, Doing

LIMIT = 20.0
NOW = 100.0


def rank(number: int, doing: Doing, still: float, steps: int = 5) -> tuple[Beat, float]:
    """What a rank says, and since when it has said nothing else."""
    return Beat(number, steps, 7, doing), NOW - still


@pytest.mark.parametrize(
    ("said", "hung"),
    [
        pytest.param([rank(0, "idle", 90), rank(1, "idle", 90)], [], id="nothing to do"),
        pytest.param([rank(0, "working", 19), rank(1, "waiting", 90)], [], id="a long step that moves on"),
        pytest.param([rank(0, "waiting", 90), rank(1, "working", 21)], [1], id="a step that does not"),
        pytest.param(
            [rank(0, "working", 1), rank(1, "working", 21), rank(2, "waiting", 90)],
            [1],
            id="one hangs while another stage still works",
        ),
        pytest.param([rank(0, "waiting", 21), rank(1, "waiting", 2)], [], id="one has just begun to wait"),
        pytest.param(
            [rank(0, "waiting", 30), rank(1, "waiting", 30, steps=4)], [1], id="all wait, one is behind"
        ),
        pytest.param([rank(0, "waiting", 30), rank(1, "waiting", 30)], [0, 1], id="all wait, none is behind"),
        pytest.param([rank(0, "waiting", 30), rank(1, "idle", 90)], [1], id="one has not begun the step"),
        pytest.param(
            [rank(0, "waiting", 30, steps=4), rank(1, "idle", 30)], [0], id="one has not seen the step's end"
        ),
    ],
)
def test_who_hangs(said: list[tuple[Beat, float]], hung: list[int]) -> None:
    progress = Progress(LIMIT)
    for beat, since in said:
        progress.note(beat, since)
        progress.note(beat, NOW)  # the same again is no movement
    assert [beat.rank for beat in progress.hung(NOW)] == hung


def test_a_beat_that_differs_is_movement() -> None:
    progress = Progress(LIMIT)
    progress.note(Beat(1, 5, 7, "working"), 0.0)
    progress.note(Beat(1, 5, 8, "working"), 15.0)
    assert progress.hung(30.0) == []
    assert [beat.rank for beat in progress.hung(36.0)] == [1]
