"""Looks after the ranks beside the core: takes their reports, and notices who ends, falls silent or hangs.

The first thing that goes wrong is the group's end: nothing half alive goes on.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import zmq

from octavo_engine.errors import ConfigError, EngineError, in_one_line
from octavo_engine.runner.parallel.launcher import Launcher
from octavo_engine.runner.parallel.progress import Progress
from octavo_engine.runner.parallel.topology import Place
from octavo_engine.runner.parallel.wire import Beat, Done, Failed, Hello, Report

_ROUND_MS = 100
_SILENCE_SECONDS = 15.0  # a rank that lives beats once a second
_STARTING_SILENCE_SECONDS = 60.0  # torch's import may hold up all of a process's threads
_PAUSE_SECONDS = 1.0  # a round that takes longer was held up itself, and with it the reading of beats
_END_SECONDS = 5.0  # for the launcher to end the others; Ray may not answer
_STUCK_SECONDS = 10.0  # how long the engine's thread has to notice a failure by itself
_CAUSE_SECONDS = 3.0  # how long a failure that may be another rank's waits for that rank's end to be seen
_log = logging.getLogger(__name__)


class RankLost(EngineError):
    """A rank has ended, fallen silent or hung; the whole engine ends with it."""


class Watch(threading.Thread):
    """Started before the ranks; ``places`` has rank 0's first, whose own work is told by ``own``."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        places: Sequence[Place],
        launcher: Launcher,
        collective_timeout: float,
        own: Callable[[], Beat],
    ) -> None:
        super().__init__(name="octavo-watch", daemon=True)
        self._own_place, self._places = places[0], {place.rank: place for place in places[1:]}
        self._launcher, self._own = launcher, own
        self._progress = Progress(collective_timeout)
        self._silence = min(_SILENCE_SECONDS, collective_timeout)
        self._clock = 0.0  # seconds; stands still while this process does
        self._socket = context.socket(zmq.PULL)
        self._socket.set_hwm(0)
        self._decoder = msgspec.msgpack.Decoder(Report)
        self._changed = threading.Condition()
        self._done: dict[str, dict[int, Done]] = defaultdict(dict)
        self._hosts = {0: platform.node()}
        self._heard: dict[int, float] = {}
        self._suspect: tuple[float, EngineError] | None = None  # (when it counts, what would be said)
        self._over = False
        self._heeded = threading.Event()  # the engine's thread knows of the failure
        self.failure: EngineError | None = None
        self.on_failure: Callable[[EngineError], None] = lambda error: None

    def bind(self, address: str) -> str:
        """The address at which workers report."""
        self._socket.bind(address)
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def run(self) -> None:
        try:
            self._rounds()
        except Exception as error:
            traceback.print_exc()
            self._fail(RankLost(f"The engine ended because its watch over the ranks failed: {error}"))
        self._socket.close(linger=0)

    def _rounds(self) -> None:
        before = time.monotonic()
        while not self._over:
            if self._socket.poll(_ROUND_MS):
                self._take(self._decoder.decode(self._socket.recv()))
            now = time.monotonic()
            self._clock, before = self._clock + min(now - before, _PAUSE_SECONDS), now
            if self.failure is None:
                self._look(self._clock)

    def stop(self) -> None:
        """From now on the ends of ranks are as they should be."""
        self._over = True
        self._heeded.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def answers(self, command: str, patience: float, hint: str) -> list[Done]:
        """Every rank's answer to ``command``, by rank. Errors: RankLost naming those that are missing."""
        deadline = time.monotonic() + patience
        with self._changed:
            while len(self._done[command]) < len(self._places):
                self._raise_failure()
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and self.failure is None:
                    self._changed.release()
                    try:
                        self._give_up(command, patience, hint)
                    finally:
                        self._changed.acquire()
            return [self._done[command][rank] for rank in sorted(self._places)]

    def check(self) -> None:
        """Errors: what has ended the group, if anything has."""
        self._raise_failure()

    def explained(self, error: Exception) -> EngineError:
        """What rank 0's own ``error`` comes from: another rank's end, where one is seen soon."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None, _CAUSE_SECONDS)
        if self.failure is None:
            _log.warning("Rank 0 failed.", exc_info=error)
            self._fail(RankLost(f"The engine ended because rank 0 failed: {in_one_line(error)}"))
        assert self.failure is not None
        self._heeded.set()
        return self.failure

    def _take(self, report: Report) -> None:
        self._heard[report.rank] = self._clock
        if isinstance(report, Beat):
            self._progress.note(report, self._clock)
        elif isinstance(report, Failed):
            self._suspect_or_fail(report)
        else:
            with self._changed:
                if isinstance(report, Hello):
                    self._hosts[report.rank] = report.host
                    report = Done(report.rank, "start")
                self._done[report.command][report.rank] = report
                self._changed.notify_all()

    def _suspect_or_fail(self, report: Failed) -> None:
        if not report.lost_peer:
            kind = ConfigError if report.exit_code == ConfigError.exit_code else RankLost
            self._fail(kind(f"{report.sentence} (on {self._rank_name(report.rank)})"))
        elif self._suspect is None:
            error = RankLost(
                f"The engine ended because {self._rank_name(report.rank)} failed: {report.sentence}"
            )
            self._suspect = self._clock + _CAUSE_SECONDS, error

    def _look(self, now: float) -> None:
        """Who has ended, is silent, or does not move on. A rank that has said why it ends ends as told."""
        told = self._suspect is not None
        for rank, how in self._launcher.ended().items():
            if not (told and how.endswith("exit code 1")):
                self._fail(RankLost(f"The engine ended because {self._rank_name(rank)} {how}."))
                return
        if self._suspect is not None:
            if now > self._suspect[0]:
                self._fail(self._suspect[1])
            return
        if silent := self._silent(now):
            sentence = f"{self._rank_name(silent[0])} has not been heard of for {silent[1]:.0f} seconds"
            self._fail(RankLost(f"The engine ended because {sentence}."))
            return
        self._progress.note(self._own(), now)
        if hung := self._progress.hung(now):
            names = ", ".join(self._rank_name(beat.rank) for beat in hung)
            still = min(self._progress.still(beat.rank, now) for beat in hung)
            self._fail(RankLost(f"The engine ended because {names} {_hangs(hung)} for {still:.0f} seconds."))

    def _silent(self, now: float) -> tuple[int, float] | None:
        """(rank, seconds since it was heard of)."""
        joined = self._done["join"]
        for rank, at in self._heard.items():
            if now - at > (self._silence if rank in joined else _STARTING_SILENCE_SECONDS):
                return rank, now - at
        return None

    def _give_up(self, command: str, patience: float, hint: str) -> None:
        missing = sorted(self._places.keys() - self._done[command].keys())
        names = ", ".join(self._rank_name(rank) for rank in missing)
        verb = "has" if len(missing) == 1 else "have"
        self._fail(RankLost(f"{_capital(names)} {verb} not {hint} within {patience:.0f} seconds."))

    def _fail(self, error: EngineError) -> None:
        with self._changed:
            if self.failure is not None or self._over:
                return
            self.failure = error
            self._changed.notify_all()
        ending = threading.Thread(target=self._launcher.end, args=(0.0,), daemon=True)
        ending.start()
        ending.join(_END_SECONDS)
        self.on_failure(error)
        if threading.current_thread() is self and not self._heeded.wait(_STUCK_SECONDS):
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(error.exit_code)  # the engine's thread waits in torch for a rank that is gone

    def _raise_failure(self) -> None:
        if self.failure is not None:
            self._heeded.set()
            raise self.failure

    def _rank_name(self, rank: int) -> str:
        place = self._places.get(rank, self._own_place)
        return place.name(self._hosts.get(rank, ""))


def _hangs(hung: list[Beat]) -> str:
    verb = "has" if len(hung) == 1 else "have"
    return f"{verb} not moved on in step {hung[0].steps + 1}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
