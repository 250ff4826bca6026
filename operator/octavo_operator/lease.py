"""Who leads, as a coordination.k8s.io Lease tells it. Pure: clocks are passed in.

```mermaid
stateDiagram-v2
  [*] --> standby: caches are full
  standby --> leader: never held, or released, or 14 s without a renewal (deleted, too, it is held so long)
  leader --> leader: renewed every 2 s, or made anew when it was deleted
  leader --> [*]: not renewed for 10 s, or another holds it, or SIGTERM (which releases it)
```
"""

import datetime
from typing import Any

import msgspec

from octavo_operator.names import MANAGED_BY, MANAGED_BY_LABEL
from octavo_operator.observed.wire import Meta, Wire

DURATION = 14  # seconds without a renewal after which another may lead; takeover included, under 15
DEADLINE = 10.0  # seconds without a renewal after which the holder stops, well before another starts
RETRY = 2.0  # seconds between renewals
RELEASED = 1  # its leaseDurationSeconds when the holder itself has cleared the holder, as client-go does


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A Lease; `renewed` is the holder's own clock and only compared with itself."""

    version: int
    holder: str = ""
    transitions: int = 0
    acquired: str | None = None
    renewed: str | None = None
    duration: int = DURATION

    @property
    def is_released(self) -> bool:
        """False when somebody else has emptied it: whoever held it does not know yet, and goes on."""
        return not self.holder and self.duration == RELEASED


class _Spec(Wire, frozen=True):
    holder_identity: str | None = None
    lease_transitions: int | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None


class _Object(Wire, frozen=True):
    metadata: Meta
    spec: _Spec = _Spec()


_decoder = msgspec.json.Decoder(_Object)


def decode_lease(data: bytes | msgspec.Raw) -> Lease:
    """Return the Lease of an API object's JSON."""
    found = _decoder.decode(data)
    spec = found.spec
    return Lease(
        version=int(found.metadata.resource_version),
        holder=spec.holder_identity or "",
        transitions=spec.lease_transitions or 0,
        acquired=spec.acquire_time,
        renewed=spec.renew_time,
        duration=spec.lease_duration_seconds or DURATION,
    )


class Patience:
    """How long a standby has to wait: measured on its own clock from each renewal it hears of.

    A Lease that vanishes, or loses its holder, without having been released is still held: its holder makes
    it anew with the next renewal.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._holder = ""  # the last one, until it releases the Lease
        self._duration = DURATION
        self._renewal: tuple[str, str | None] | None = None
        self._since = 0.0

    def heard(self, lease: Lease | None, now: float) -> None:
        """Take in what the watch says at the monotonic time `now`."""
        renewal = None if lease is None else (lease.holder, lease.renewed)
        if renewal != self._renewal:
            self._renewal, self._since = renewal, now
        if lease is not None and (lease.holder or lease.is_released):
            self._holder, self._duration = lease.holder, lease.duration

    def seconds(self, now: float) -> float:
        """Until this candidate may take the Lease; 0 when it is free or its own."""
        if self._holder in ("", self._identity):
            return 0.0
        return max(0.0, self._since + self._duration - now)


def held(found: Lease | None, identity: str, now: datetime.datetime) -> dict[str, Any]:
    """The spec with `identity` as the holder; a change of holder is counted."""
    moment = _micro_time(now)
    stays = found is not None and found.holder == identity
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": DURATION,
        "acquireTime": (found.acquired if found and stays else None) or moment,
        "renewTime": moment,
        "leaseTransitions": 0 if found is None else found.transitions + (not stays),
    }


def released(found: Lease) -> dict[str, Any]:
    """The spec without a holder: the next may take it at once."""
    return {"holderIdentity": "", "leaseDurationSeconds": RELEASED, "leaseTransitions": found.transitions}


def document(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A new Lease."""
    meta = {"name": name, "namespace": namespace, "labels": {MANAGED_BY_LABEL: MANAGED_BY}}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def _micro_time(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
