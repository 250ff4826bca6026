"""What the watch over the ranks makes of their reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest
import zmq

from octavo_engine.config import ParallelConfig
from octavo_engine.errors import ConfigError, EngineError
from octavo_engine.runner.parallel import watch as module
from octavo_engine.runner.parallel.topology import places
from octavo_engine.runner.parallel.watch import Watch
from octavo_engine.runner.parallel.wire import Beat, Done, Failed, Hello, Report, WorkerSpec

LIMIT = 1.0  # seconds
IDLE = Beat(0, 9, 0, "idle")


class Ranks:
    """A launcher of ranks that only report."""

    host, device = "127.0.0.1", 0

    def __init__(self) -> None:
        self.how: dict[int, str] = {}
        self.was_ended = threading.Event()

    def here(self) -> list[int]:
        return [0, 1, 2]

    def device_of(self, rank: int) -> int:
        return rank

    def start(self, specs: Iterable[WorkerSpec]) -> None:
        """They are there."""

    def ended(self) -> dict[int, str]:
        return dict(self.how)

    def end(self, patience: float) -> None:
        self.was_ended.set()


class Watched:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_STUCK_SECONDS", 60.0)
        self.ranks = Ranks()
        self.context = zmq.Context()
        self.watch = Watch(self.context, places(ParallelConfig(tensor=3)), self.ranks, LIMIT, lambda: IDLE)
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.connect(self.watch.bind("tcp://127.0.0.1:*"))
        self.watch.start()

    def say(self, *reports: Report) -> None:
        for report in reports:
            self.socket.send(msgspec.msgpack.encode(report))

    def close(self) -> None:
        self.watch.stop()
        self.context.destroy(linger=0)

    def failure(self) -> EngineError:
        assert self.ranks.was_ended.wait(20)
        with pytest.raises(EngineError) as raised:
            self.watch.answers("never", 20, "")
        return raised.value


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    found = Watched(monkeypatch)
    yield found
    found.close()


def test_answers_are_waited_for_and_come_by_rank(watched: Watched) -> None:
    watched.say(Done(2, "profile", blocks=(7, 0)), Done(1, "profile", blocks=(9, 0)))
    assert [done.blocks for done in watched.watch.answers("profile", 20, "")] == [(9, 0), (7, 0)]


def test_who_has_not_answered_in_time_is_named_with_its_node(watched: Watched) -> None:
    watched.say(Hello(1, "node-a"), Hello(2, "node-b"))
    watched.watch.answers("start", 20, "")
    watched.say(Done(1, "join"))
    with pytest.raises(EngineError, match="Rank 2 on node-b has not joined the others within 1 seconds"):
        watched.watch.answers("join", 1, "joined the others")


def _end(watched: Watched) -> None:
    watched.ranks.how[2] = "was killed (SIGKILL)"


def _hang(watched: Watched) -> None:
    watched.say(Hello(1, "node-a"), Hello(2, "node-b"))  # whose silence counts only once they have joined
    watched.say(Beat(1, 7, 50, "waiting"), Beat(2, 6, 50, "working"))


def _fall_silent(watched: Watched) -> None:
    watched.say(Hello(1, "node-a"), Hello(2, "node-b"), Done(2, "join"))


def _wrong_setting(watched: Watched) -> None:
    watched.say(Failed(1, "--tensor-parallel-size 3 does not divide 4.", False, 2))


def _suffer(watched: Watched) -> None:
    watched.say(Failed(1, "RuntimeError: connection closed", True))


def _suffer_from_an_end(watched: Watched) -> None:
    _suffer(watched)
    _end(watched)


@pytest.mark.parametrize(
    ("happens", "sentence"),
    [
        (_end, "because rank 2 was killed (SIGKILL)."),
        (_hang, "because rank 2 on node-b has not moved on in step 7 for 1 seconds."),
        (_fall_silent, "because rank 2 on node-b has not been heard of for 1 seconds."),
        (_wrong_setting, "--tensor-parallel-size 3 does not divide 4. (on rank 1)"),
        (_suffer, "because rank 1 failed: RuntimeError: connection closed"),
        (_suffer_from_an_end, "because rank 2 was killed (SIGKILL)."),
    ],
)
def test_the_first_cause_ends_the_group(
    watched: Watched, happens: Callable[[Watched], None], sentence: str
) -> None:
    happens(watched)
    assert sentence in str(watched.failure())


def test_a_wrong_setting_stays_one(watched: Watched) -> None:
    _wrong_setting(watched)
    assert isinstance(watched.failure(), ConfigError)


def test_ranks_that_end_after_the_stop_are_no_failure(watched: Watched) -> None:
    watched.watch.stop()
    watched.ranks.how[1] = "ended by itself with exit code 0"
    watched.watch.check()
