"""Who owns which model name, and who shares its requests. Pure: no I/O, no clock.

Names: a deployment may be called by its served name, by an alias, and by `namespace/name`. The last always
means that deployment. Any other name that several deployments claim belongs to the oldest of them (ties: by
`namespace/name`), so that traffic that works is never taken over by something that is created later; the
others stay reachable as `namespace/name`. This is the rule by which the Gateway API settles conflicts.

Weights: a deployment that claims a name too, lives in the owner's namespace and sets `routing.weight` takes
part in that name: its share of the requests is its weight / the sum of weights. The owner's weight is 100
unless it sets one. Those without a ready pod are left out of the sum; those of them that sleep are woken by
each request for the name, and while none is ready the ones that sleep or have a fallback are the sum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

OWNERS_WEIGHT = 100


class Deployment(msgspec.Struct, frozen=True):
    """What the router needs to know of an LLMDeployment, or of an entry of the static file."""

    key: str  # "namespace/name"; static mode: the model's name
    served_name: str
    aliases: tuple[str, ...] = ()
    created: str = ""  # RFC 3339 in UTC, which sorts as text
    owner: str = "octavo"  # the namespace
    policy: str | None = None  # None or unknown: the router's own
    weight: int | None = None  # None: takes part in no other's name
    fallback: str | None = None  # the key of the deployment that serves when this one has no ready pod
    sleeps: bool = False  # its pods are stopped when idle, and started when they are asked for
    idle: bool = False  # they are stopped now
    stalled: str = ""  # why it does not start until a person changes something

    @property
    def wakes(self) -> bool:
        """Whether a request brings it a pod where it has none."""
        return self.sleeps and not self.stalled

    def claims(self, name: str) -> bool:
        return name == self.served_name or name in self.aliases

    def name_at_pods(self, name: str) -> str:
        """What its engines are asked under when the client asks for ``name``.

        They know the two names that cannot change. Aliases come and go without a restart, and of another
        deployment's name, whose share or fallback this one is, they know nothing.
        """
        if name in (self.served_name, self.key):
            return name
        return self.served_name if name in self.aliases else self.key


def claim_names(deployments: Iterable[Deployment]) -> dict[str, Deployment]:
    """Model name -> the deployment that owns it, by the rule above."""
    seniority = sorted(deployments, key=lambda d: (d.created, d.key))
    owners = {d.key: d for d in seniority}
    for deployment in seniority:
        for name in (deployment.served_name, *deployment.aliases):
            owners.setdefault(name, deployment)
    return owners


def shared_names(
    owners: Mapping[str, Deployment], deployments: Iterable[Deployment]
) -> dict[str, dict[str, int]]:
    """Name -> key -> weight, the owner first, of the names that several take part in by the rule above."""
    shared: dict[str, dict[str, int]] = {}
    for other in deployments:
        for name in (other.served_name, *other.aliases) if other.weight is not None else ():
            owner = owners[name]
            if name != owner.key and other is not owner and other.owner == owner.owner:
                first = OWNERS_WEIGHT if owner.weight is None else owner.weight
                shared.setdefault(name, {owner.key: first})[other.key] = other.weight or 0
    return shared


def listed_names(owners: Mapping[str, Deployment]) -> dict[str, Deployment]:
    """What /v1/models shows: served names and aliases, and `namespace/name` where nothing else is left."""
    shown = {name: d for name, d in owners.items() if d.claims(name)}
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
