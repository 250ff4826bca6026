"""What happens to the blocks of sequences that share, write, swap and end."""

from __future__ import annotations

from tests.engine.simulation import request

from octavo_engine.kv_cache import KVCache
from octavo_engine.request import Request, Sequence
from octavo_engine.step_draft import StepDraft


def sequence(seq_id: int, length: int) -> Sequence:
    return Sequence(
        Request(request(str(seq_id), [1] * length), (0, seq_id), 1000, frozenset()), seq_id, 0, [1] * length
    )


def computed(kv: KVCache, seq: Sequence, draft: StepDraft) -> Sequence:
    """``seq`` with blocks for all its tokens, which a step has computed."""
    kv.extend(seq, seq.num_tokens, draft)
    seq.num_computed = seq.num_tokens
    kv.publish(seq)
    seq.row_step = 0
    return seq


def test_whoever_writes_into_a_shared_block_gets_a_copy_and_the_last_one_keeps_it() -> None:
    kv, draft = KVCache(8, 0, 16, prefix_caching=True), StepDraft()
    parent, child = computed(kv, sequence(0, 20), draft), sequence(1, 20)
    kv.share(parent, child)
    shared = parent.block_table[1]
    assert kv.blocks_wanted(parent, 21) == 1
    kv.extend(parent, 21, draft)
    assert draft.copies == [(shared, parent.block_table[1])]
    assert draft.block_changes == [(0, 1, parent.block_table[1])]
    child.num_computed = 19
    assert kv.blocks_wanted(child, 20) == 0
    kv.extend(child, 20, draft)
    assert child.block_table[1] == shared
    kv.pool.check_integrity([parent.block_table, child.block_table])


def test_a_fork_takes_back_the_right_to_write_without_asking() -> None:
    kv = KVCache(8, 0, 16, prefix_caching=True)
    parent, child = computed(kv, sequence(0, 20), StepDraft()), sequence(1, 20)
    assert parent.writable_end == 32
    kv.share(parent, child)
    assert (parent.writable_end, child.writable_end) == (0, 0)


def test_a_known_block_that_is_written_is_no_longer_known() -> None:
    kv, draft = KVCache(8, 0, 16, prefix_caching=True), StepDraft()
    parent, child = computed(kv, sequence(0, 32), draft), sequence(1, 32)
    kv.share(parent, child)
    kv.free(parent)
    child.num_computed = 31
    kv.extend(child, 32, draft)
    assert draft.copies == []
    assert kv.find_prefix(sequence(2, 40)) == child.block_table[:1]


def test_a_swapped_sequence_that_ends_takes_its_swap_out_of_the_draft() -> None:
    kv, draft = KVCache(4, 4, 16, prefix_caching=False), StepDraft()
    first, second = (computed(kv, sequence(number, 20), draft) for number in range(2))
    assert kv.swap_out(first, draft)
    assert kv.swap_out(second, draft)
    kv.drop_swapped(first, draft)
    assert [target for _, target in draft.swap_out] == second.host_table
    assert kv.host.num_free == 2


def test_a_host_without_room_takes_nothing() -> None:
    kv, draft = KVCache(4, 1, 16, prefix_caching=False), StepDraft()
    seq = computed(kv, sequence(0, 20), draft)
    assert not kv.swap_out(seq, draft)
    assert (len(seq.block_table), kv.host.num_free, draft.swap_out) == (2, 1, [])


def test_a_sequence_comes_back_from_the_host_to_blocks_of_its_own() -> None:
    kv, draft = KVCache(4, 4, 16, prefix_caching=True), StepDraft()
    seq = computed(kv, sequence(0, 20), draft)
    kv.swap_out(seq, draft)
    later = StepDraft()
    kv.swap_in(seq, later)
    assert [block for _, _, block in later.block_changes] == seq.block_table
    assert [block for _, block in later.swap_in] == seq.block_table
    assert kv.host.num_free == 4
    kv.pool.check_integrity([seq.block_table])


def test_without_prefix_caching_nothing_is_found() -> None:
    kv = KVCache(8, 0, 16, prefix_caching=False)
    computed(kv, sequence(0, 40), StepDraft())
    assert kv.find_prefix(sequence(1, 40)) == []
