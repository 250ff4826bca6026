from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_engine.errors import EngineError
from octavo_engine.runner.parallel.ring import RingReader, RingWriter

CAPACITY = 4096


@pytest.fixture
def writer() -> Iterator[RingWriter]:
    ring = RingWriter(2, CAPACITY)
    yield ring
    ring.unlink()


def reader(writer: RingWriter, number: int) -> RingReader:
    return RingReader(str(writer.path), number, CAPACITY)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=3 * CAPACITY), max_size=20))
def test_every_reader_gets_every_message_whole_and_in_order(messages: list[bytes]) -> None:
    ring = RingWriter(2, CAPACITY)
    readers = [reader(ring, number) for number in range(2)]
    ring.unlink()
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(lambda r: [r.receive(20) for _ in messages], each) for each in readers]
        for message in messages:
            ring.send(message)
        assert [each.result() for each in found] == [messages, messages]


def test_a_reader_that_waits_is_woken(writer: RingWriter) -> None:
    waiting, found = reader(writer, 0), []
    thread = threading.Thread(target=lambda: found.append(waiting.receive(20)))
    thread.start()
    writer.send(b"step")
    thread.join(20)
    assert found == [b"step"]


def test_nothing_comes_from_an_empty_ring(writer: RingWriter) -> None:
    assert reader(writer, 0).receive(0.01) is None


def test_a_reader_that_does_not_read_is_told_of(writer: RingWriter) -> None:
    reader(writer, 0)
    with pytest.raises(EngineError, match="A rank has read no step for 0 seconds"):
        for _ in range(CAPACITY):
            writer.send(b"12345678", patience=0.05)


def test_more_readers_than_a_page_has_room_for_are_refused() -> None:
    with pytest.raises(EngineError, match="64 ranks of one node are more than the 63"):
        RingWriter(64)
