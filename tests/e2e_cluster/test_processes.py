"""Processes that are found again by what is on disk."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import Process, ProcessTable

FOREVER = ["sleep", "300"]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    table = ProcessTable(tmp_path / "processes", tmp_path / "logs")
    table.folder.mkdir()
    table.logs.mkdir()
    yield table
    for name in table.names():
        table.stop(name)


def test_a_process_is_found_by_another_table_of_the_same_folder(table: ProcessTable) -> None:
    process = table.start("sleeper", FOREVER)
    again = ProcessTable(table.folder, table.logs)
    assert again.names() == ["sleeper"]
    assert again.get("sleeper") == process
    assert process.alive


def test_a_stopped_process_is_gone_and_forgotten(table: ProcessTable) -> None:
    process = table.start("sleeper", FOREVER)
    table.stop("sleeper", signal.SIGTERM)
    assert not process.alive
    assert table.names() == []


def test_one_that_ignores_the_first_signal_is_killed(table: ProcessTable) -> None:
    process = table.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 300; done"])
    table.wait("stubborn", "its trap", lambda: "ready" in (table.logs / "stubborn.log").read_text())
    child = process.first_child()
    process.end(signal.SIGTERM, grace=0.1)
    assert not process.alive
    if child:
        Process.running(child).end(signal.SIGKILL, grace=1)


def test_a_later_process_with_the_same_id_is_left_alone(table: ProcessTable) -> None:
    process = table.start("sleeper", FOREVER)
    earlier = Process(process.pid, born="1")
    earlier._send(signal.SIGKILL)
    assert not earlier.alive
    assert process.alive


def test_a_process_that_never_was_is_not_alive() -> None:
    assert not Process.running(2**22 + 1).alive


def test_output_and_environment_go_where_they_should(table: ProcessTable) -> None:
    table.start("speaker", ["sh", "-c", 'echo "$WORD"; echo aside >&2; sleep 300'], {"WORD": "hello"})
    log = table.logs / "speaker.log"
    table.wait("speaker", "its words", lambda: log.read_text() == "hello\naside\n", seconds=10)
    assert table.last_line("speaker") == "aside"


def test_waiting_for_one_that_ended_gives_its_last_words(table: ProcessTable) -> None:
    table.start("broken", ["sh", "-c", "echo 'no such flag: --frob'; exit 1"])
    with pytest.raises(ClusterError, match="broken ended before the world: no such flag: --frob"):
        table.wait("broken", "the world", lambda: False, seconds=10)


def test_waiting_too_long_says_for_what_and_how_long(table: ProcessTable) -> None:
    table.start("sleeper", FOREVER)

    def refused() -> bool:
        raise ConnectionRefusedError

    with pytest.raises(ClusterError, match=r"the answer did not happen within 0\.2 s"):
        table.wait("sleeper", "the answer", refused, seconds=0.2)
