"""The block pool by examples, and against a model that hypothesis drives."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo_engine.block_pool import BlockPool, block_hash, root_hash


def published(pool: BlockPool, *digests: bytes) -> list[int]:
    blocks = [pool.allocate() for _ in digests]
    for block, digest in zip(blocks, digests, strict=True):
        pool.publish(block, digest)
    return blocks


def test_an_allocated_block_has_one_holder_and_no_free_place() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    assert not pool.is_shared(block)
    assert pool.num_free == 1
    assert pool.usage == 0.5


def test_a_released_block_is_found_by_its_hash() -> None:
    pool = BlockPool(4)
    blocks = published(pool, b"a", b"b")
    pool.release(reversed(blocks))
    assert pool.usage == 0.0
    assert pool.find([b"a", b"b", b"c"]) == blocks


def test_a_chain_is_found_only_up_to_its_first_gap() -> None:
    pool = BlockPool(4)
    published(pool, b"a", b"c")
    assert len(pool.find([b"a", b"b", b"c"])) == 1


def test_free_blocks_are_given_before_cached_ones() -> None:
    pool = BlockPool(2)
    pool.release(published(pool, b"a"))
    pool.allocate()
    assert pool.find([b"a"])


def test_the_least_recently_used_block_is_evicted_first() -> None:
    pool = BlockPool(2)
    first, second = published(pool, b"a", b"b")
    pool.release([first])
    pool.release([second])
    pool.take([first])
    pool.release([first])
    pool.allocate()
    assert pool.find([b"a"]) == [first]
    assert pool.find([b"b"]) == []


def test_the_end_of_a_prefix_is_evicted_before_its_beginning() -> None:
    pool = BlockPool(3)
    blocks = published(pool, b"a", b"b", b"c")
    pool.release(reversed(blocks))
    pool.allocate()
    assert pool.find([b"a", b"b", b"c"]) == blocks[:2]


def test_a_shared_block_stays_until_its_last_holder_lets_go() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.take([block])
    assert pool.is_shared(block)
    pool.release([block])
    assert pool.num_free == 0
    pool.release([block])
    assert pool.num_free == 1


def test_the_first_block_known_for_a_content_stays_the_known_one() -> None:
    pool = BlockPool(2)
    first, second = published(pool, b"a", b"a")
    assert pool.find([b"a"]) == [first]
    pool.release([first, second])
    pool.check_integrity([])


def test_a_forgotten_block_is_not_found() -> None:
    pool = BlockPool(1)
    (block,) = published(pool, b"a")
    pool.forget(block)
    assert pool.find([b"a"]) == []


def test_disowned_contents_are_not_found_whoever_holds_their_blocks() -> None:
    pool = BlockPool(4)
    held, cached, other = published(pool, b"a", b"b", b"c")
    pool.release([cached])
    pool.disown([b"a", b"b", b"unknown"])
    assert [pool.find([digest]) for digest in (b"a", b"b", b"c")] == [[], [], [other]]
    pool.check_integrity([[held, other]])
    assert {pool.allocate(), pool.allocate()} > {cached}


@pytest.mark.parametrize(
    ("salt", "tokens", "same"),
    [("", [1, 2], True), ("tenant", [1, 2], False), ("", [1, 3], False), ("", [2, 1], False)],
)
def test_a_hash_names_salt_and_tokens(salt: str, tokens: list[int], same: bool) -> None:
    assert (block_hash(root_hash(salt), tokens) == block_hash(root_hash(""), [1, 2])) is same


def test_a_hash_names_everything_before_it() -> None:
    tail = [5] * 16
    assert block_hash(block_hash(root_hash(""), [1]), tail) != block_hash(
        block_hash(root_hash(""), [2]), tail
    )


def test_integrity_finds_a_lost_reference() -> None:
    pool = BlockPool(2)
    pool.allocate()
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check_integrity([])


class PoolMachine(RuleBasedStateMachine):
    """Holders with block tables, as the scheduler has them; contents are hashes of (parent, number)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(number=st.integers(0, 2))
    def begin_with_a_known_prefix(self, number: int) -> None:
        table = self.pool.find([block_hash(root_hash(""), [number])])
        self.pool.take(table)
        for block in table:
            assert self.content[block] == block_hash(root_hash(""), [number])
        self.tables.append(table)

    @precondition(lambda self: self.tables and self.pool.num_free)
    @rule(which=st.integers(0, 100), number=st.integers(0, 2), publish=st.booleans())
    def grow(self, which: int, number: int, publish: bool) -> None:
        table = self.tables[which % len(self.tables)]
        block = self.pool.allocate()
        assert all(block not in other for other in self.tables), "a held block was given out"
        parent = self.content.get(table[-1], root_hash("?")) if table else root_hash("")
        self.content[block] = block_hash(parent, [number])
        if publish:
            self.pool.publish(block, self.content[block])
        table.append(block)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 100))
    def fork(self, which: int) -> None:
        table = self.tables[which % len(self.tables)]
        self.pool.take(table)
        self.tables.append(table.copy())

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        self.pool.release(reversed(self.tables.pop(which % len(self.tables))))

    @rule(numbers=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def disown(self, numbers: list[int]) -> None:
        chain = [root_hash("")]
        for number in numbers:
            chain.append(block_hash(chain[-1], [number]))
        self.pool.disown(chain[1:])
        assert not any(self.pool.find([digest]) for digest in chain[1:])

    @invariant()
    def books_agree(self) -> None:
        self.pool.check_integrity(self.tables)
        assert self.pool.num_free == 8 - len({block for table in self.tables for block in table})

    def teardown(self) -> None:
        while self.tables:
            self.end(0)
        assert self.pool.num_free == 8


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
