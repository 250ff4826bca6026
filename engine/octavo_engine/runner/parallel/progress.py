"""Whose work moves on, by what the ranks say of it: finds those that hang. Pure; no clock of its own."""

from __future__ import annotations

from octavo_engine.runner.parallel.wire import Beat


class Progress:
    """A rank hangs when it works and has not moved on for ``limit`` seconds. When all that have something to
    do wait for each other so long, those hang that have come least far."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._beats: dict[int, Beat] = {}
        self._moved: dict[int, float] = {}  # rank -> when what it said last changed

    def note(self, beat: Beat, now: float) -> None:
        if self._beats.get(beat.rank) != beat:
            self._beats[beat.rank], self._moved[beat.rank] = beat, now

    def still(self, rank: int, now: float) -> float:
        """Seconds without movement."""
        return now - self._moved[rank]

    def hung(self, now: float) -> list[Beat]:
        beats = self._beats.values()
        working = [beat for beat in beats if beat.doing == "working"]
        if working:
            return [beat for beat in working if self.still(beat.rank, now) > self._limit]
        waiting = [beat for beat in beats if beat.doing == "waiting"]
        if not waiting or any(self.still(beat.rank, now) <= self._limit for beat in waiting):
            return []
        least = min(beat.steps for beat in beats)
        behind = [beat for beat in beats if beat.steps == least]
        return [beat for beat in behind if beat.doing == "idle"] or behind  # idle: it has not even begun
