"""Which pods have seen which beginnings of prompts, as far as this process knows. Pure; bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

HOLDERS = 16  # remembered for a block, the latest before others: what all pods hold needs no choice

H = TypeVar("H")  # hashable


class PrefixTable(Generic[H]):
    """Block hash -> the pods that were sent it last. Holds up to `capacity` blocks, about 130 bytes each.

    Two generations of half the capacity: what is sent goes into the young one, which becomes the old one when
    it is full, and what was in the old one and not sent again meanwhile is forgotten. So the latest half
    is always there. An order of use for each block would cost more memory and time than the choice itself,
    and an OrderedDict stops for tens of milliseconds when it makes its index anew.

    Hashes are chained: a block is never in a younger generation than the blocks before it, so that where
    one is not known none behind it is.
    """

    def __init__(self, capacity: int) -> None:
        self._half = capacity // 2
        self._young: dict[int, tuple[H, ...]] = {}
        self._old: dict[int, tuple[H, ...]] = {}
        self._forgotten: dict[int, tuple[H, ...]] = {}  # freed bit by bit: at once it would take milliseconds

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + len(self._forgotten)

    def holders(self, blocks: Sequence[int]) -> list[tuple[int, tuple[H, ...]]]:
        """Who has seen how many of the leading `blocks`, the most first; a pod's first entry counts."""
        found: list[tuple[int, tuple[H, ...]]] = []
        young, old = self._young.get, self._old.get
        last: tuple[H, ...] | None = None
        depth = 0
        for block in blocks:
            holders = young(block) or old(block)
            if holders is not last:
                if last is not None:
                    found.append((depth, last))
                last = holders
                if holders is None:
                    break
            depth += 1
        if last is not None:
            found.append((depth, last))
        found.reverse()
        return found

    def learn(self, blocks: Sequence[int], pod: H) -> None:
        """Notes that the pod is sent these blocks; of more than half the capacity, the first."""
        blocks = blocks[: self._half]
        if len(self._young) + len(blocks) > self._half:
            self._young, self._old, self._forgotten = {}, self._young, self._old
        young, old = self._young, self._old
        last: tuple[H, ...] | None = None
        merged: tuple[H, ...] = (pod,)
        for known, block in enumerate(blocks):
            recent = young.get(block)
            holders = recent or old.get(block)
            if holders is None:
                young.update(dict.fromkeys(blocks[known:], (pod,)))
                break
            if holders is not last:
                last, merged = holders, _led_by(pod, holders)
            if recent is not merged:
                young[block] = merged
        if self._forgotten:
            self._free(len(blocks))

    def _free(self, count: int) -> None:
        forgotten = self._forgotten
        for _ in range(min(count, len(forgotten))):
            forgotten.popitem()


def _led_by(pod: H, holders: tuple[H, ...]) -> tuple[H, ...]:
    """With the pod in front, if it is not among the first half: who goes first is decided at the back."""
    if pod in holders[: HOLDERS // 2]:
        return holders
    return (pod, *[h for h in holders if h is not pod][: HOLDERS - 1])
