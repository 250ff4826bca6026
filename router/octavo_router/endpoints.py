"""What the router knows now: deployments, their pods, and how each pod fares. One writer, the event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from octavo_router.breaker import USUAL_LIMITS, Breaker, Limits, RetryBudget
from octavo_router.errors import NoReadyPodError, UnknownModelError
from octavo_router.metrics import Figures
from octavo_router.policies import Policies, Policy
from octavo_router.prompt import Features
from octavo_router.routing import (
    Deployment,
    ModelCard,
    claim_names,
    listed_names,
    name_some,
    shared_names,
)
from octavo_router.settings import Settings

_GOLDEN = 0.6180339887498949  # its multiples fill 0 to 1 most evenly


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
        shown = f"[{address.host}]" if ":" in address.host else address.host
        self.address = f"{shown}:{address.port}"
        self.host_header = self.address.encode()
        self.salt = xxh3_64_intdigest(self.host_header)
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


class Split:
    """A name that several deployments share by weights."""

    __slots__ = ("_members", "_point")

    def __init__(self, members: list[tuple[Route, int]]) -> None:
        self._members = members
        self._point = 0.0

    def pick(self, features: Features) -> Route:
        """By the session, so that one stays with its deployment, or in turns as even as the weights allow."""
        ready = [(route, weight) for route, weight in self._members if route.ready and weight]
        if not ready:
            return next((route for route, _ in self._members if route.ready), self._members[0][0])
        left = self._draw(features) * sum(weight for _, weight in ready)
        for route, weight in ready:
            left -= weight
            if left < 0:
                return route
        return ready[-1][0]

    def _draw(self, features: Features) -> float:
        if features.session is not None:
            return features.session / 2.0**64
        self._point = (self._point + _GOLDEN) % 1.0
        return self._point


class Registry:
    """Deployments and pods, fed by discovery and asked by the data path."""

    def __init__(
        self,
        figures: Figures,
        on_withdrawn: Callable[[Endpoint], None] = lambda endpoint: None,
        policies: Policies | None = None,
        limits: Limits = USUAL_LIMITS,
    ) -> None:
        self._figures = figures
        self._policies = policies or Policies()
        self._limits = limits
        self._on_withdrawn = on_withdrawn
        self._deployments: dict[str, Deployment] = {}
        self._endpoints: dict[str, dict[Address, Endpoint]] = {}
        self._routes: dict[str, Route] = {}  # by key
        self._by_name: dict[str, Route] = {}
        self._splits: dict[str, Split] = {}
        self._cards: dict[str, ModelCard] = {}
        self.on_wanted: Callable[[Route], None] = lambda route: None
        """Hears of each request that finds a model asleep."""

    def set_deployments(self, deployments: Mapping[str, Deployment]) -> None:
        """Replaces all deployments."""
        self._deployments = dict(deployments)
        self._rebuild()

    def set_addresses(self, key: str, addresses: Collection[Address]) -> None:
        """Replaces the ready pods of one deployment. Pods that stay keep their counts and connections."""
        known = self._endpoints.get(key, {})
        fresh = {
            a: known.get(a) or Endpoint(a, self._limits)
            for a in sorted(addresses, key=lambda a: (a.host, a.port, a.uid))
        }
        self._endpoints[key] = fresh
        if key in self._routes:
            self._routes[key].keep(fresh.values())
        if not fresh:
            del self._endpoints[key]
        for address in known.keys() - fresh.keys():
            known[address].withdrawn = True
            self._on_withdrawn(known[address])

    def resolve(self, model: str) -> Route:
        """The route that owns a model's name. Raises UnknownModelError, which names the known ones."""
        route = self._by_name.get(model)
        if route is None:
            known = name_some(self._cards)
            raise UnknownModelError(f"There is no model named {model[:200]!r}; the known ones: {known}.")
        return route

    def route(self, features: Features) -> Route:
        """Where a request goes: to the owner of the name, one that shares it, or a fallback.

        Raises:
            UnknownModelError, or NoReadyPodError where the fallbacks lead nowhere.
        """
        model = features.asked.model
        route = self.resolve(model)
        if self._splits and (split := self._splits.get(model)) is not None:
            route = split.pick(features)
        if route.ready:
            return route
        if route.deployment.sleeps:
            self.on_wanted(route)
        return route if route.deployment.fallback is None else self._fallback(route)

    def _fallback(self, first: Route) -> Route:
        passed, route = [first.deployment.key], first
        while (key := route.deployment.fallback) is not None:
            following = self._routes.get(key)
            if following is None:
                raise NoReadyPodError(
                    f"{passed[-1]!r} has no ready pod, and its fallback {key!r} does not exist; "
                    "correct its spec.routing.fallback."
                )
            if key in passed:
                circle = " -> ".join([*passed, key])
                raise NoReadyPodError(
                    f"No ready pod: the fallbacks go round in a circle ({circle}); "
                    "remove spec.routing.fallback from one of them."
                )
            if following.ready:
                return following
            passed.append(key)
            route = following
        return first

    def card(self, model: str) -> ModelCard:
        """The entry of GET /v1/models/{model}. Raises UnknownModelError."""
        route = self.resolve(model)
        return self._cards.get(model) or _card(model, route.deployment)

    def cards(self) -> list[ModelCard]:
        """The entries of GET /v1/models, by name."""
        return [self._cards[name] for name in sorted(self._cards)]

    def routes(self) -> list[Route]:
        return list(self._routes.values())

    def _rebuild(self) -> None:
        former = self._routes
        self._routes = {key: self._route(key, d) for key, d in self._deployments.items()}
        for key in former.keys() - self._routes.keys():
            former[key].close()
        owners = claim_names(self._deployments.values())
        self._by_name = {name: self._routes[d.key] for name, d in owners.items()}
        self._splits = {
            name: Split([(self._routes[key], weight) for key, weight in weights.items()])
            for name, weights in shared_names(owners, self._deployments.values()).items()
        }
        self._cards = {name: _card(name, d) for name, d in listed_names(owners).items()}

    def _route(self, key: str, deployment: Deployment) -> Route:
        """The route of a key; the same object as long as the deployment lives, for requests that hold it."""
        policy = self._policies.of(deployment.policy)
        route = self._routes.get(key)
        if route is None:
            route = Route(deployment, self._figures, policy, self._limits)
            route.keep(self._endpoints.get(key, {}).values())
        route.deployment, route.policy = deployment, policy
        return route


def _card(name: str, deployment: Deployment) -> ModelCard:
    created = int(datetime.fromisoformat(deployment.created).timestamp()) if deployment.created else 0
    return ModelCard(name, created, deployment.owner, deployment.served_name)


def make_registry(
    settings: Settings, figures: Figures, on_withdrawn: Callable[[Endpoint], None] = lambda endpoint: None
) -> Registry:
    """An empty registry, as the settings want it."""
    policies = Policies(settings.policy, settings.load_bound, settings.prefix_table)
    limits = Limits(settings.ejection, settings.longest_ejection, settings.retry_ratio, settings.retry_burst)
    figures.table_blocks = policies.table.__len__
    return Registry(figures, on_withdrawn, policies, limits)
