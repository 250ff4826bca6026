"""The KV memory of sequences: block tables over a device pool and a host pool.

Blocks are given when positions in them are scheduled, never ahead, so a sequence
wastes less than one block.
"""

from __future__ import annotations

from octavo_engine.block_pool import BlockPool, block_hash, root_hash
from octavo_engine.request import Sequence, Status
from octavo_engine.step_draft import StepDraft


class KVCache:
    """Grows, shares, copies, swaps and frees block tables; notes in the step's draft what the runner must do.

    Invariant: a block that is written has one holder and no name in the prefix cache.
    """

    __slots__ = ("_prefix_caching", "block_size", "host", "pool")

    def __init__(
        self, num_blocks: int, num_host_blocks: int, block_size: int, *, prefix_caching: bool
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.host = BlockPool(num_host_blocks)
        self.block_size = block_size
        self._prefix_caching = prefix_caching

    def find_prefix(self, seq: Sequence) -> list[int]:
        """Known blocks that begin the sequence. Its last token is left to compute: only that yields logits.

        Prompt log probabilities need every position computed: nothing is looked up until they are reported.
        """
        if not self._prefix_caching or seq.prompt_logprobs is not None or seq.status is Status.SWAPPED:
            return []
        count = (len(seq.token_ids) - 1) // self.block_size
        self._hash(seq, count)
        return self.pool.find(seq.block_hashes[:count])

    def publish(self, seq: Sequence) -> None:
        """Make full blocks findable, as far as scheduled steps compute them and their tokens are known.

        Who finds them runs in a later step than those that fill them.
        """
        full = min(seq.num_computed, len(seq.token_ids)) // self.block_size
        if full <= seq.num_offered or not self._prefix_caching:
            return
        self._hash(seq, full)
        for index in range(seq.num_offered, full):
            self.pool.publish(seq.block_table[index], seq.block_hashes[index])
        seq.num_offered = full

    def begin_with(self, seq: Sequence, prefix: list[int]) -> None:
        """A sequence without blocks takes those that :meth:`find_prefix` found."""
        self.pool.take(prefix)
        seq.block_table = prefix
        seq.num_offered = len(prefix)
        seq.num_computed = len(prefix) * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def blocks_to_admit(self, seq: Sequence, prefix: list[int], budget: int) -> int:
        """Free blocks that a waiting sequence takes: all of its tokens' beside a cached ``prefix``, or those
        that it had when it was swapped out and wants for the next ``budget`` tokens."""
        if seq.status is not Status.SWAPPED:
            return self.blocks_for(seq.num_tokens) - self.pool.num_held(prefix)
        end = min(seq.num_computed + budget, seq.num_tokens)
        return max(len(seq.host_table), self.blocks_for(end))

    def blocks_wanted(self, seq: Sequence, end: int) -> int:
        """Blocks that writing the positions from ``num_computed`` to ``end`` takes, a copy included."""
        first = seq.num_computed // self.block_size
        table = seq.block_table
        wanted = self.blocks_for(end) - len(table)
        if first < len(table) and self.pool.is_shared(table[first]):
            wanted += 1
        return wanted

    def extend(self, seq: Sequence, end: int, draft: StepDraft) -> list[int]:
        """Give ``seq`` the blocks of :meth:`blocks_wanted`; returns those appended to its table."""
        first = seq.num_computed // self.block_size
        table = seq.block_table
        if first < len(table):
            self._make_writable(seq, first, draft)
        appended = [self.pool.allocate() for _ in range(self.blocks_for(end) - len(table))]
        table += appended
        seq.writable_end = len(table) * self.block_size
        return appended

    def share(self, parent: Sequence, child: Sequence) -> None:
        """The child begins with the parent's blocks; who writes to one first gets a copy."""
        child.block_table = parent.block_table.copy()
        child.block_hashes = parent.block_hashes.copy()
        child.num_offered = parent.num_offered
        self.pool.take(child.block_table)
        parent.writable_end = child.writable_end = 0

    def free(self, seq: Sequence) -> None:
        """Let go of the device blocks; what they are known to hold stays findable until it is evicted."""
        self.publish(seq)
        self.pool.release(reversed(seq.block_table))
        seq.block_table = []
        seq.num_offered = seq.writable_end = 0

    def disown(self, seq: Sequence) -> None:
        """Let nobody find the content of a sequence that failed: what it was computed from may be no number.

        Also what it found itself: whoever computed that may have ended before it could fail.
        """
        self.pool.disown(seq.block_hashes)

    def swap_out(self, seq: Sequence, draft: StepDraft) -> bool:
        """Move the sequence's blocks to the host; False, and nothing done, when the host has no room.

        Nor after a swap-in of this draft: it reads host blocks that are free by now, after all swap-outs.
        """
        if draft.swap_in or self.host.num_free < len(seq.block_table):
            return False
        seq.host_table = [self.host.allocate() for _ in seq.block_table]
        draft.swap_out += zip(seq.block_table, seq.host_table, strict=True)
        self.free(seq)
        return True

    def swap_in(self, seq: Sequence, draft: StepDraft) -> None:
        """Move the blocks back to the device, where the caller has looked for room."""
        seq.block_table = [self.pool.allocate() for _ in seq.host_table]
        draft.swap_in += zip(seq.host_table, seq.block_table, strict=True)
        draft.block_changes += [(seq.seq_id, index, block) for index, block in enumerate(seq.block_table)]
        self.host.release(seq.host_table)
        seq.host_table = []

    def drop_swapped(self, seq: Sequence, draft: StepDraft) -> None:
        """Free the host blocks of a sequence that will not come back."""
        dropped = set(seq.host_table)
        draft.swap_out = [pair for pair in draft.swap_out if pair[1] not in dropped]
        self.host.release(seq.host_table)
        seq.host_table = []

    def _make_writable(self, seq: Sequence, index: int, draft: StepDraft) -> None:
        block = seq.block_table[index]
        if not self.pool.is_shared(block):
            self.pool.forget(block)
            return
        copy = self.pool.allocate()
        seq.block_table[index] = copy
        draft.copies.append((block, copy))
        if seq.has_row:
            draft.block_changes.append((seq.seq_id, index, copy))
        self.pool.release([block])  # others hold it; nothing is swapped into it before this copy is made

    def _hash(self, seq: Sequence, count: int) -> None:
        hashes, size = seq.block_hashes, self.block_size
        for index in range(len(hashes), count):
            parent = hashes[-1] if hashes else root_hash(seq.request.salt)
            hashes.append(block_hash(parent, seq.token_ids[index * size : (index + 1) * size]))
