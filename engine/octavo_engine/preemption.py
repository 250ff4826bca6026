"""Who gives way when an urgent sequence finds no room: those that run and are less urgent."""

from __future__ import annotations

from collections import Counter

from octavo_engine.batch import Batch
from octavo_engine.request import Sequence


def who_gives_way(batch: Batch, budget: int) -> list[Sequence]:
    """Who is to be preempted for the head of the queue, if it is more urgent and finds no room.

    ``budget``: tokens of the step.
    """
    waiting, running = batch.waiting, batch.running
    if not (waiting and running and running[-1].yields_to(waiting[0])) or waiting[0].awaits_tokens:
        return []
    prefix = batch.kv.find_prefix(waiting[0])
    return _least_urgent(batch, waiting[0], prefix, batch.kv.blocks_to_admit(waiting[0], prefix, budget))


def _least_urgent(batch: Batch, urgent: Sequence, prefix: list[int], num_blocks: int) -> list[Sequence]:
    """The fewest running sequences without which ``urgent`` has ``num_blocks`` free blocks and its places.

    None when it has them already, or would not have them without all that are less urgent. ``prefix``: cached
    blocks that it will take; it gains nothing when their other holders let go.
    """
    pool, running = batch.kv.pool, batch.running
    holders: Counter[int] = Counter()
    kept = set(prefix)
    found: list[Sequence] = []
    freed, places = pool.num_free, batch.free_places
    while places < urgent.width or freed - batch.reserve(len(running) - len(found)) < num_blocks:
        if len(found) == len(running) or not running[-1 - len(found)].yields_to(urgent):
            return []
        victim = running[-1 - len(found)]
        found.append(victim)
        places += victim.width
        holders.update(victim.block_table)
        freed += sum(pool.holders(b) == holders[b] for b in victim.block_table if b not in kept)
    return found
