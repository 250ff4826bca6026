"""The table of prefixes: what it finds, and that it stays within its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octavo_router.prefix import HOLDERS, PrefixTable


def test_each_pod_is_found_as_deep_as_it_was_sent() -> None:
    table: PrefixTable[str] = PrefixTable(100)
    table.learn([1, 2, 3], "a")
    table.learn([1, 2, 9, 10], "b")
    assert table.holders([1, 2, 3, 4]) == [(3, ("a",)), (2, ("b", "a"))]
    assert table.holders([1, 2, 9, 10]) == [(4, ("b",)), (2, ("b", "a"))]
    assert table.holders([7, 8]) == []
    assert table.holders([]) == []


def test_the_latest_pods_of_a_block_are_kept() -> None:
    table: PrefixTable[int] = PrefixTable(100)
    for pod in range(20):
        table.learn([1], pod)
    assert table.holders([1]) == [(1, tuple(reversed(range(20 - HOLDERS, 20))))]


@given(st.lists(st.integers(0, 2 * HOLDERS), min_size=1, max_size=200))
def test_the_latest_eight_pods_of_a_block_are_among_those_kept(pods: list[int]) -> None:
    table: PrefixTable[int] = PrefixTable(100)
    for pod in pods:
        table.learn([1], pod)
    ((_, held),) = table.holders([1])
    latest = list(dict.fromkeys(reversed(pods)))[: HOLDERS // 2]
    assert set(latest) <= set(held)
    assert len(held) == len(set(held)) <= HOLDERS


def test_a_prompts_end_is_forgotten_before_its_beginning() -> None:
    table: PrefixTable[str] = PrefixTable(8)
    table.learn([1, 2, 3], "a")
    table.learn([1, 7], "b")
    table.learn([8, 9, 10], "b")
    assert table.holders([1, 2, 3]) == [(1, ("b", "a"))]


def test_what_is_used_stays() -> None:
    table: PrefixTable[str] = PrefixTable(8)
    table.learn([1, 2], "a")
    for block in range(10, 30):
        table.learn([block], "b")
        table.learn([1, 2], "a")
    assert table.holders([1, 2]) == [(2, ("a",))]


def test_the_latest_half_of_its_size_is_always_there() -> None:
    table: PrefixTable[str] = PrefixTable(20)
    for block in range(100):
        table.learn([block], "a")
        assert all(table.holders([b]) for b in range(max(0, block - 9), block + 1))
    assert table.holders([70]) == []


# A tree of prompts, two branches at each block: a block's number is its hash over itself and all before.
def chain(leaf: int) -> list[int]:
    return [leaf >> shift for shift in range(leaf.bit_length() - 1, -1, -1)]


LESSONS = st.lists(st.tuples(st.integers(1, 255), st.integers(0, 5)), max_size=60)


@given(LESSONS, st.integers(0, 40))
def test_it_never_holds_more_than_its_size_and_finds_only_what_it_learnt(
    lessons: list[tuple[int, int]], capacity: int
) -> None:
    table: PrefixTable[int] = PrefixTable(capacity)
    sent: set[tuple[int, int]] = set()
    for leaf, pod in lessons:
        blocks = chain(leaf)
        table.learn(blocks, pod)
        sent |= {(block, pod) for block in blocks}
        assert len(table) <= capacity
        reach, found = min(len(blocks), capacity // 2), table.holders(blocks)
        assert [depth for depth, _ in found] == sorted({depth for depth, _ in found}, reverse=True)
        assert not found if not reach else found[0][0] == reach and pod in found[0][1]
        assert all((block, holder) in sent for n, held in found for block in blocks[:n] for holder in held)
