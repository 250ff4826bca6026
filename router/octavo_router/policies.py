"""Which pod takes a request: the policies that a deployment may choose from. Pure: no I/O, no clock.

All but `round-robin` look at a pod's load: the requests that it runs or has waiting, those of other routers
included (the engine reports them), kept up to date with what this router sends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar, get_args

from octavo_router.prefix import PrefixTable
from octavo_router.prompt import Features, Prompt

PolicyName = Literal["least-load", "prefix", "round-robin", "session"]
POLICY_NAMES: tuple[PolicyName, ...] = get_args(PolicyName)
_AT_EASE = 2  # a pod with fewer requests is never passed over for its load
SALT_BITS = 30  # Python multiplies numbers of so many bits in one step
_MASK = (1 << SALT_BITS) - 1
_MIX = 0x2545F491  # odd, so that no two salts come together


class Candidate(Protocol):
    """What a policy may look at in an endpoint."""

    @property
    def load(self) -> int:
        """Requests that run or wait there."""

    @property
    def salt(self) -> int:
        """`SALT_BITS` made of its address: every router has the same."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Picks an endpoint."""

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        """One of `candidates`, which is never empty."""


class LeastLoad:
    """The endpoint with the least load; equals take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        self._turn = turn = self._turn + 1
        count = len(candidates)
        best = candidates[turn % count]
        least = best.load
        for step in range(1, count):
            if not least:
                break
            other = candidates[(turn + step) % count]
            if other.load < least:
                best, least = other, other.load
        return best


class RoundRobin:
    """Each endpoint in its turn, whatever it has to do."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        self._turn += 1
        return candidates[self._turn % len(candidates)]


class Session:
    """Requests of one session go to one endpoint; those without a session to the least loaded."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._others = LeastLoad()

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        key = features.session
        if key is None:
            return self._others.choose(candidates, features)
        return preferred(candidates, key, load_limit(candidates, self._bound))


class Prefix:
    """The endpoint that has seen most of the prompt, unless it is too loaded; else the conversation's own.

    What it has seen counts when it goes beyond the conversation's beginning, or is nearly all: a beginning
    that all conversations share is to draw none of them to where it was first. The second choice, and the
    order among equals, need no memory: all routers find the same endpoint for the same conversation.
    """

    def __init__(self, bound: float, table: PrefixTable[Candidate]) -> None:
        self._bound = bound
        self._table = table
        self._others = LeastLoad()

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        if not features.has_prompt:
            return self._others.choose(candidates, features)
        prompt = features.prompt
        limit = load_limit(candidates, self._bound)
        holders = self._table.holders(prompt.blocks)
        chosen = _deepest(candidates, holders, prompt, limit) if holders else None
        if chosen is None:
            chosen = preferred(candidates, prompt.anchor, limit)
        self._table.learn(prompt.blocks, chosen)
        return chosen


def load_limit(candidates: Sequence[Candidate], bound: float) -> int:
    """The load from which an endpoint is passed over: `bound` times the mean, this request counted in.

    Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads (2018). Some endpoint is below it.
    """
    total = 1
    for candidate in candidates:
        total += candidate.load
    return max(_AT_EASE, math.ceil(bound * total / len(candidates)))


def preferred(candidates: Sequence[C], key: int, limit: int) -> C:
    """The first, in the key's own order of endpoints, whose load is below the limit.

    Rendezvous hashing (Thaler, Ravishankar 1998): when an endpoint comes or goes, only its keys move.
    """
    return _first_below(candidates, key, limit) or candidates[0]


def _first_below(candidates: Sequence[C], key: int, limit: int) -> C | None:
    best, highest, key = None, -1, key & _MASK
    for candidate in candidates:
        if candidate.load < limit:
            weight = ((key ^ candidate.salt) * _MIX) & _MASK
            if weight > highest:
                best, highest = candidate, weight
    return best


def _deepest(
    candidates: Sequence[C], holders: Sequence[tuple[int, tuple[Any, ...]]], prompt: Prompt, limit: int
) -> C | None:
    anchor, reach = prompt.anchor, min(prompt.anchor_blocks + 1, prompt.most)
    for depth, pods in holders:
        if depth < reach:
            break
        chosen: C | None = _first_below(pods, anchor, limit)
        if chosen is not None and chosen not in candidates:  # it has been tried, or is set aside, or leaves
            chosen = _first_below([pod for pod in pods if pod in candidates], anchor, limit)
        if chosen is not None:
            return chosen
    return None


class Policies:
    """One of each, for one process."""

    def __init__(
        self, default: PolicyName = "least-load", bound: float = 1.25, table_blocks: int = 300_000
    ) -> None:
        self.table: PrefixTable[Candidate] = PrefixTable(table_blocks)
        self._policies: dict[str, Policy] = {
            "least-load": LeastLoad(),
            "prefix": Prefix(bound, self.table),
            "round-robin": RoundRobin(),
            "session": Session(bound),
        }
        self._default = self._policies[default]

    def of(self, name: str | None) -> Policy:
        """The policy of that name; the default for none, and for one that a newer resource has."""
        return self._policies.get(name or "", self._default)
