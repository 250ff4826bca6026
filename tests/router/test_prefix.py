"""The table of prefixes: what it finds, and that it stays within its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octavo_router.prefix import HOLDERS, PrefixTable


def test_each_pod_is_found_as_deep_as_it_was_sent() -> None:
    table: PrefixTable[str] = PrefixTable(100)
    table.learn([1, 2, 3], "a")
    table.learn([1, 2, 9, 10], "b")
    assert table.depths([1, 2, 3, 4]) == {"a": 3, "b": 2}
    assert table.depths([1, 2, 9, 10]) == {"a": 2, "b": 4}
    assert table.depths([7, 1]) == {}
    assert table.depths([]) == {}


def test_the_latest_pods_of_a_block_are_kept() -> None:
    table: PrefixTable[int] = PrefixTable(100)
    for pod in range(20):
        table.learn([1], pod)
    assert table.depths([1]) == dict.fromkeys(range(20 - HOLDERS, 20), 1)


def test_a_prompts_end_is_forgotten_before_its_beginning() -> None:
    table: PrefixTable[str] = PrefixTable(4)
    table.learn([1, 2, 3], "a")
    table.learn([7, 8], "b")
    assert table.depths([1, 2, 3]) == {"a": 2}


def test_what_is_used_stays() -> None:
    table: PrefixTable[str] = PrefixTable(4)
    table.learn([1, 2], "a")
    for block in range(10, 20):
        table.learn([block], "b")
        table.learn([1, 2], "a")
    assert table.depths([1, 2]) == {"a": 2}


CHAINS = st.lists(st.integers(0, 30), max_size=8, unique=True)


@given(st.lists(st.tuples(CHAINS, st.integers(0, 5)), max_size=40), st.integers(0, 20))
def test_it_never_holds_more_than_its_size_and_finds_only_what_it_learnt(
    lessons: list[tuple[list[int], int]], capacity: int
) -> None:
    table: PrefixTable[int] = PrefixTable(capacity)
    for blocks, pod in lessons:
        table.learn(blocks, pod)
        assert len(table) <= capacity
        if len(blocks) <= capacity:
            assert table.depths(blocks)[pod] == len(blocks) if blocks else True
