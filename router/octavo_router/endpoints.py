"""Pods as the router sees them: how each fares, and which of a deployment may take a request. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from octavo_router.authority import authority
from octavo_router.breaker import USUAL_LIMITS, Breaker, Limits, RetryBudget
from octavo_router.metrics import Figures
from octavo_router.policies import SALT_BITS, Policy
from octavo_router.routing import Deployment


class Address(msgspec.Struct, frozen=True):
    """Where a pod listens. A new pod at an old address is a new `Address`, by its uid."""

    host: str
    port: int
    uid: str = ""


class Endpoint:
    """One pod as the router sees it."""

    __slots__ = (
        "address",
        "breaker",
        "heard_at",
        "host",
        "host_header",
        "in_flight",
        "load",
        "port",
        "salt",
        "withdrawn",
    )

    def __init__(self, address: Address, limits: Limits = USUAL_LIMITS) -> None:
        self.host = address.host
        self.port = address.port
        self.address = authority(address.host, address.port)
        self.host_header = self.address.encode()
        self.salt = xxh3_64_intdigest(self.host_header) >> (64 - SALT_BITS)
        self.in_flight = 0  # requests of this router
        self.load = 0  # requests that run or wait there: as last told by the engine, and what was sent since
        self.heard_at = 0.0
        self.breaker = Breaker(limits)
        self.withdrawn = False  # terminating, unready or gone: nothing new, running requests go on

    def __repr__(self) -> str:
        return f"Endpoint({self.address}, load={self.load})"

    def enter(self, now: float) -> None:
        """A request is sent there."""
        self.in_flight += 1
        self.load += 1
        if not self.breaker.closed:
            self.breaker.tried(now)

    def leave(self) -> None:
        self.in_flight -= 1
        self.load -= 1

    def report(self, load: int, now: float) -> None:
        """The engine tells its load, the requests of this router included."""
        self.load = max(load, self.in_flight)
        self.heard_at = now


class Held(Protocol):
    """A request that waits until there is a pod."""

    def woken(self) -> None: ...


class Route:
    """A deployment, its pods that are ready, how requests are spread over them, and its figures."""

    __slots__ = ("_budget", "_held", "_troubled", "deployment", "figures", "policy", "ready", "requests")

    def __init__(
        self, deployment: Deployment, figures: Figures, policy: Policy, limits: Limits = USUAL_LIMITS
    ) -> None:
        self.deployment = deployment
        self.figures = figures.of(deployment.key)
        self.policy = policy
        self.ready: tuple[Endpoint, ...] = ()
        self.requests = 0
        self._budget = RetryBudget(limits)
        self._troubled: set[Endpoint] = set()  # those whose breaker is not closed
        self._held: dict[Held, None] = {}  # requests that wait for the first pod, the oldest first

    def candidates(self, now: float, tried: Collection[Endpoint]) -> Sequence[Endpoint]:
        """Pods that may take a request: untried and not set aside; when all the untried are, those."""
        if not tried and not self._troubled:
            return self.ready
        untried = [e for e in self.ready if e not in tried]
        return [e for e in untried if e.breaker.admits(now)] or untried

    def may_retry(self, now: float) -> bool:
        """Takes one retry from the budget."""
        return self._budget.take(now, self.requests)

    def failed(self, endpoint: Endpoint, now: float) -> bool:
        """A pod gave no answer: dead, its load is the least and draws all. True when it is set aside now."""
        self._troubled.add(endpoint)
        return endpoint.breaker.fail(now)

    def faulted(self, endpoint: Endpoint, now: float) -> bool:
        """A pod answered 500, 502 or 504. True when it is set aside now; never more than half are."""
        aside = sum(not e.breaker.admits(now) for e in self._troubled)
        if 2 * (aside + 1) > len(self.ready):
            return False
        self._troubled.add(endpoint)
        return endpoint.breaker.fault(now)

    def succeeded(self, endpoint: Endpoint) -> None:
        endpoint.breaker.succeed()
        self._troubled.discard(endpoint)

    def change(self, deployment: Deployment, policy: Policy) -> None:
        """What is known of the deployment; nothing waits for pods that do not come."""
        self.deployment, self.policy = deployment, policy
        if deployment.stalled:
            self._release()

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Replaces the ready pods; the first ones get what has waited for them."""
        self.ready = tuple(endpoints)
        self._troubled.intersection_update(self.ready)
        if self.ready:
            self._release()

    def close(self) -> None:
        """The deployment is deleted: nothing waits for its pods any longer."""
        self.deployment = msgspec.structs.replace(self.deployment, sleeps=False)
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, {}
        self.figures.held -= len(held)
        for request in held:
            request.woken()

    @property
    def holds(self) -> int:
        """Requests that wait for the first pod."""
        return len(self._held)

    def hold(self, request: Held) -> None:
        self._held[request] = None
        self.figures.held += 1

    def let_go(self, request: Held) -> None:
        """The request waits no longer."""
        if request in self._held:
            del self._held[request]
            self.figures.held -= 1
