"""What the router knows now: deployments and pods, by the names that lead to them. The event loop writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from octavo_router.breaker import USUAL_LIMITS, Limits
from octavo_router.endpoints import Address, Endpoint, Route
from octavo_router.errors import NoReadyPodError, UnknownModelError
from octavo_router.metrics import Figures
from octavo_router.policies import Policies
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


class Split:
    """A name that several deployments share by weights."""

    __slots__ = ("_members", "_point")

    def __init__(self, members: list[tuple[Route, int]]) -> None:
        self._members = members
        self._point = 0.0

    def pick(self, features: Features) -> Route:
        """By the session, so that one stays with its deployment, or in turns as even as the weights allow.

        While none is ready, those share that may answer all the same: by a pod that is woken, or a fallback.
        """
        weighed = [(route, weight) for route, weight in self._members if weight]
        if ready := [(route, weight) for route, weight in weighed if route.ready]:
            return self._choose(ready, features)
        for route, _ in self._members:
            if route.ready:
                return route
        hopeful = [(r, w) for r, w in weighed if r.deployment.wakes or r.deployment.fallback is not None]
        return self._choose(hopeful, features) if hopeful else self._members[0][0]

    def asleep(self) -> list[Route]:
        """Those that would get their share if they were woken."""
        return [r for r, weight in self._members if weight and r.deployment.wakes and not r.ready]

    def _choose(self, members: list[tuple[Route, int]], features: Features) -> Route:
        left = self._draw(features) * sum(weight for _, weight in members)
        for route, weight in members:
            left -= weight
            if left < 0:
                return route
        return members[-1][0]

    def _draw(self, features: Features) -> float:
        session = features.session
        if session is not None:
            return session / 2.0**64
        self._point = (self._point + _GOLDEN) % 1.0
        return self._point


class Names:
    """What names mean: to all, or to those who may use the deployments of one namespace."""

    def __init__(self, deployments: Collection[Deployment], routes: Mapping[str, Route]) -> None:
        owners = claim_names(deployments)
        self.routes = {name: routes[d.key] for name, d in owners.items()}
        self.splits = {
            name: Split([(routes[key], weight) for key, weight in weights.items()])
            for name, weights in shared_names(owners, deployments).items()
        }
        self.cards = {name: _card(name, d) for name, d in listed_names(owners).items()}

    def owner(self, model: str) -> Route:
        """The route that owns a name. Raises UnknownModelError, which tells the known ones."""
        route = self.routes.get(model)
        if route is None:
            known = name_some(self.cards)
            raise UnknownModelError(f"There is no model named {model[:200]!r}; the known ones: {known}.")
        return route


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
        self._views: dict[str | None, Names] = {}  # by namespace; None: all
        self.on_wanted: Callable[[Route], None] = lambda route: None
        """Hears of each model that a request finds asleep, whether the request waits for it or not."""

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

    def resolve(self, model: str, namespace: str | None = None) -> Route:
        """The route that owns a model's name. Raises UnknownModelError."""
        return self._names(namespace).owner(model)

    def route(self, features: Features, namespace: str | None = None) -> Route:
        """Where a request goes: to the owner of the name, one that shares it, or a fallback.

        Wakes those that would take it if they did not sleep.

        Raises:
            UnknownModelError, or NoReadyPodError where the fallbacks lead nowhere.
        """
        names, model = self._names(namespace), features.asked.model
        route = names.owner(model)
        if names.splits and (split := names.splits.get(model)) is not None:
            route = split.pick(features)
            for sleeper in split.asleep():
                self.on_wanted(sleeper)
        return route if route.ready else self._fallback(route)

    def _fallback(self, first: Route) -> Route:
        """The first of it and its fallbacks that has a ready pod; when none has, the first that sleeps.

        That one is woken in any case, but none that comes after it: it will take the requests.
        """
        passed: list[str] = []
        route, sleeper = first, None
        while not route.ready:
            passed.append(route.deployment.key)
            if route.deployment.wakes and sleeper is None:
                sleeper = route
                self.on_wanted(route)
            key = route.deployment.fallback
            if key is None:
                return sleeper or first
            if key in passed:
                circle = " -> ".join([*passed, key])
                raise NoReadyPodError(
                    f"No ready pod: the fallbacks go round in a circle ({circle}); "
                    "remove spec.routing.fallback from one of them."
                )
            if key not in self._routes:
                raise NoReadyPodError(
                    f"{passed[-1]!r} has no ready pod, and its fallback {key!r} does not exist; "
                    "correct its spec.routing.fallback."
                )
            route = self._routes[key]
        return route

    def card(self, model: str, namespace: str | None = None) -> ModelCard:
        """The entry of GET /v1/models/{model}. Raises UnknownModelError."""
        names = self._names(namespace)
        route = names.owner(model)
        return names.cards.get(model) or _card(model, route.deployment)

    def cards(self, namespace: str | None = None) -> list[ModelCard]:
        """The entries of GET /v1/models, by name."""
        cards = self._names(namespace).cards
        return [cards[name] for name in sorted(cards)]

    def routes(self) -> list[Route]:
        return list(self._routes.values())

    def _rebuild(self) -> None:
        former = self._routes
        self._routes = {key: self._route(key, d) for key, d in self._deployments.items()}
        self._views.clear()
        for key in former.keys() - self._routes.keys():
            former[key].close()

    def _names(self, namespace: str | None) -> Names:
        """The names of one namespace, or of all; made when they are first asked for after a change."""
        names = self._views.get(namespace)
        if names is None:
            seen = [d for d in self._deployments.values() if namespace is None or d.owner == namespace]
            names = self._views[namespace] = Names(seen, self._routes)
        return names

    def _route(self, key: str, deployment: Deployment) -> Route:
        """The route of a key; the same object as long as the deployment lives, for requests that hold it."""
        policy = self._policies.of(deployment.policy)
        route = self._routes.get(key)
        if route is None:
            route = Route(deployment, self._figures, policy, self._limits)
            route.keep(self._endpoints.get(key, {}).values())
        route.change(deployment, policy)
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
