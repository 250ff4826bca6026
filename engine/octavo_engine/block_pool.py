"""Blocks of the paged KV cache: who holds which, and which hold a known prefix.

A block is *held* (reference count > 0), *cached* (held by nobody, but its content is known by its hash and
may be taken again) or *free*. Free blocks are given out first, then cached ones, least recently used first.

                 allocate                        release, content known
        free ──────────────> held (1..n holders) ──────────────────────> cached
          ^                    │      ^                                     │
          └──release───────────┘      └──────take (prefix hit)──────────────┤
          └─────────────── evicted by allocate, or disowned ────────────────┘
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b


def root_hash(salt: str) -> bytes:
    """The parent of every first block; prefixes are shared only within one salt."""
    return blake2b(salt.encode(), digest_size=16).digest()


def block_hash(parent: bytes, token_ids: list[int]) -> bytes:
    """Names a full block's content: its tokens and, through ``parent``, every token before them."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class BlockPool:
    """The books of ``num_blocks`` blocks; it knows no tensors. All operations are O(1) a block."""

    __slots__ = ("_cached", "_free", "_hashes", "_holders", "_known", "num_blocks")

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._known: dict[bytes, int] = {}  # hash -> the one block that holds this content
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that :meth:`allocate` can give out: free ones and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def usage(self) -> float:
        """Held blocks / all blocks, 0..1."""
        return 1 - self.num_free / self.num_blocks if self.num_blocks else 0.0

    def allocate(self) -> int:
        """One block of unknown content with one holder. The caller has looked at ``num_free``."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self.forget(block)
        self._holders[block] = 1
        return block

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known chain that begins ``hashes``; not yet held by the caller."""
        found = []
        for digest in hashes:
            block = self._known.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_held(self, blocks: Iterable[int]) -> int:
        """How many of these somebody holds, so that taking them costs no free block."""
        return sum(self._holders[block] > 0 for block in blocks)

    def take(self, blocks: Iterable[int]) -> None:
        """Hold blocks that are known or held already: a prefix hit or a fork."""
        for block in blocks:
            if not self._holders[block]:
                del self._cached[block]
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of blocks, given from last to first: the end of a prefix is evicted before its beginning."""
        for block in blocks:
            self._holders[block] -= 1
            if not self._holders[block]:
                if self._hashes[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def holders(self, block: int) -> int:
        return self._holders[block]

    def is_shared(self, block: int) -> bool:
        return self._holders[block] > 1

    def publish(self, block: int, digest: bytes) -> None:
        """Make a held, full block findable, unless another one is known for the same content."""
        if digest not in self._known and self._hashes[block] is None:
            self._known[digest] = block
            self._hashes[block] = digest

    def forget(self, block: int) -> None:
        """Take a block out of the prefix cache, because its content is about to be written."""
        digest = self._hashes[block]
        if digest is not None:
            del self._known[digest]
            self._hashes[block] = None

    def disown(self, digests: Iterable[bytes]) -> None:
        """Make contents that turned out unsound findable no more, whoever holds their blocks."""
        for digest in digests:
            block = self._known.get(digest)
            if block is not None:
                self.forget(block)
                if not self._holders[block]:
                    del self._cached[block]
                    self._free.append(block)

    def check_integrity(self, tables: Iterable[list[int]]) -> None:
        """Raise AssertionError unless the books agree with each other and with all holders' block tables."""
        holders = [0] * self.num_blocks
        for table in tables:
            for block in table:
                holders[block] += 1
        assert holders == self._holders, "reference counts differ from the block tables"
        idle = sorted([*self._free, *self._cached])
        assert idle == [block for block, held in enumerate(holders) if not held], (
            "a block is lost or given twice"
        )
        named = {digest: block for block, digest in enumerate(self._hashes) if digest is not None}
        assert named == self._known, "the prefix cache names a block that does not know its hash"
        assert all(self._hashes[block] is None for block in self._free), "a free block is still named"
        assert all(self._hashes[block] is not None for block in self._cached), "a cached block has no name"
