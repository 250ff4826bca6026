"""Who owns which model name, and which pod takes a request. Pure: no I/O, no clock.

Names: a deployment may be called by its served name, by an alias, and by `namespace/name`. The last always
means that deployment. Any other name that several deployments claim belongs to the oldest of them (ties: by
`namespace/name`), so that traffic that works is never taken over by something that is created later; the
others stay reachable as `namespace/name`. This is the rule by which the Gateway API settles conflicts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec


class Deployment(msgspec.Struct, frozen=True):
    """What the router needs to know of an LLMDeployment, or of an entry of the static file."""

    key: str  # "namespace/name"; static mode: the model's name
    served_name: str
    aliases: tuple[str, ...] = ()
    created: str = ""  # RFC 3339 in UTC, which sorts as text
    owner: str = "octavo"  # the namespace


class Features(msgspec.Struct, frozen=True, gc=False):
    """What a policy may look at in a request."""

    model: str
    path: bytes
    body: bytes  # the JSON as the client sent it


class Candidate(Protocol):
    """What a policy may look at in an endpoint."""

    @property
    def address(self) -> str:
        """`host:port`, stable while the pod lives."""

    @property
    def in_flight(self) -> int:
        """Requests that this router has running there."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Picks an endpoint. Least-loaded now; prefix-aware routing is another implementation of this."""

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        """One of `candidates`, which is never empty."""


class LeastLoaded:
    """The endpoint with the fewest requests in flight; equals take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[C], features: Features) -> C:
        self._turn = turn = self._turn + 1
        count = len(candidates)
        best = candidates[turn % count]
        least = best.in_flight
        for step in range(1, count):
            if not least:
                break
            other = candidates[(turn + step) % count]
            if other.in_flight < least:
                best, least = other, other.in_flight
        return best


def claim_names(deployments: Iterable[Deployment]) -> dict[str, Deployment]:
    """Model name -> the deployment that owns it, by the rule above."""
    seniority = sorted(deployments, key=lambda d: (d.created, d.key))
    owners = {d.key: d for d in seniority}
    for deployment in seniority:
        for name in (deployment.served_name, *deployment.aliases):
            owners.setdefault(name, deployment)
    return owners


def listed_names(owners: Mapping[str, Deployment]) -> dict[str, Deployment]:
    """What /v1/models shows: served names and aliases, and `namespace/name` where nothing else is left."""
    shown = {name: d for name, d in owners.items() if name == d.served_name or name in d.aliases}
    reached = {d.key for d in shown.values()}
    return shown | {d.key: d for d in owners.values() if d.key not in reached}


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of GET /v1/models; `root` is the served name that an alias stands for."""

    id: str
    created: int  # Unix seconds
    owned_by: str
    root: str
    object: str = "model"


def name_some(names: Collection[str], limit: int = 20) -> str:
    """The names as words for an error message, cut after `limit`."""
    if not names:
        return "none is deployed yet"
    shown = ", ".join(sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
