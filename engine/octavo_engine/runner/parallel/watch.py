"""Looks after the ranks beside the core: takes their reports, and notices who ends, falls silent or hangs.

The first thing that goes wrong is the group's end: nothing half alive goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec
import zmq

from octavo_engine.errors import ConfigError, EngineError
from octavo_engine.runner.parallel.launcher import Launcher
from octavo_engine.runner.parallel.topology import Place
from octavo_engine.runner.parallel.wire import Beat, Done, Failed, Hello, Report

_ROUND_MS = 100
_SILENCE_SECONDS = 15.0  # a rank that lives beats once a second
_STUCK_SECONDS = 10.0  # how long the engine's thread has to notice a failure by itself
_CAUSE_SECONDS = 3.0  # how long a failure that may be another rank's waits for that rank's end to be seen


class RankLost(EngineError):
    """A rank has ended, fallen silent or hung; the whole engine ends with it."""


class Watch(threading.Thread):
    """Started before the ranks; ``places`` are those beside rank 0.

    ``stalled`` tells for how long rank 0's own work has not moved on.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        places: Iterable[Place],
        launcher: Launcher,
        collective_timeout: float,
        stalled: Callable[[], float],
    ) -> None:
        super().__init__(name="octavo-watch", daemon=True)
        self._places = {place.rank: place for place in places}
        self._launcher, self._stalled = launcher, stalled
        self.limit = collective_timeout
        self._socket = context.socket(zmq.PULL)
        self._socket.set_hwm(0)
        self._decoder = msgspec.msgpack.Decoder(Report)
        self._changed = threading.Condition()
        self._done: dict[str, dict[int, Done]] = defaultdict(dict)
        self._hosts: dict[int, str] = {}
        self._beats: dict[int, Beat] = {}
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
        while not self._over:
            if self._socket.poll(_ROUND_MS):
                self._take(self._decoder.decode(self._socket.recv()))
            if self.failure is None:
                self._look(time.monotonic())
        self._socket.close(linger=0)

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
            self._fail(RankLost(f"The engine ended because rank 0 failed: {type(error).__name__}: {error}"))
        assert self.failure is not None
        self._heeded.set()
        return self.failure

    def _take(self, report: Report) -> None:
        self._heard[report.rank] = time.monotonic()
        if isinstance(report, Beat):
            self._beats[report.rank] = report
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
            self._suspect = time.monotonic() + _CAUSE_SECONDS, error

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
        for rank, at in self._heard.items():
            if now - at > _SILENCE_SECONDS:
                sentence = f"{self._rank_name(rank)} has not been heard of for {now - at:.0f} seconds"
                self._fail(RankLost(f"The engine ended because {sentence}."))
                return
        self._look_for_hang()

    def _look_for_hang(self) -> None:
        if len(self._beats) < len(self._places):
            return
        stalled = min(self._stalled(), *(beat.stalled for beat in self._beats.values()))
        if stalled <= self.limit:
            return
        steps = min(beat.steps for beat in self._beats.values())
        behind = [self._rank_name(rank) for rank, beat in self._beats.items() if beat.steps == steps]
        self._fail(
            RankLost(
                f"The engine ended because the ranks' step has not moved on for {stalled:.0f} seconds; "
                f"furthest behind: {', '.join(behind)} after {steps} steps."
            )
        )

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
        self._launcher.end(0.0)
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
        return self._places[rank].name(self._hosts.get(rank, ""))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
