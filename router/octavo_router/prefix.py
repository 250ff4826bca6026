"""Which pods have seen which beginnings of prompts, as far as this process knows. Pure; bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

HOLDERS = 16  # remembered for a block, the latest first: what all pods hold needs no choice

H = TypeVar("H")  # hashable


class PrefixTable(Generic[H]):
    """Block hash -> the pods that were sent it last. Holds `capacity` blocks, about 215 bytes each.

    The least recently used go first, and of one prompt its end before its beginning: a chain whose first
    blocks are gone would be of no use. OrderedDict, because a dict is slow to give up its oldest entries.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[int, tuple[H, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def depths(self, blocks: Sequence[int]) -> dict[H, int]:
        """How many of the leading `blocks` each pod has seen."""
        found: dict[H, int] = {}
        last: tuple[H, ...] = ()
        get, depth = self._entries.get, 0
        for block in blocks:
            holders = get(block)
            if holders is not last:
                found.update(dict.fromkeys(last, depth))
                if holders is None:
                    return found
                last = holders
            depth += 1
        found.update(dict.fromkeys(last, depth))
        return found

    def learn(self, blocks: Sequence[int], pod: H) -> None:
        """Notes that the pod is sent these blocks."""
        entries = self._entries
        get, touch = entries.get, entries.move_to_end
        last: tuple[H, ...] | None = None
        merged: tuple[H, ...] = (pod,)
        for block in reversed(blocks):
            holders = get(block)
            if holders is not last:
                last, merged = holders, _led_by(pod, holders)
            entries[block] = merged
            if holders is not None:
                touch(block)
        for _ in range(len(entries) - self._capacity):
            entries.popitem(last=False)


def _led_by(pod: H, holders: tuple[H, ...] | None) -> tuple[H, ...]:
    if not holders:
        return (pod,)
    return holders if holders[0] is pod else (pod, *[h for h in holders if h is not pod][: HOLDERS - 1])
