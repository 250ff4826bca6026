"""What the router knows now: deployments, their pods, and how each pod fares. One writer, the event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from octavo_router.errors import UnknownModelError
from octavo_router.metrics import Figures
from octavo_router.routing import Deployment, ModelCard, claim_names, listed_names, name_some


class Address(msgspec.Struct, frozen=True):
    """Where a pod listens. A new pod at an old address is a new `Address`, by its uid."""

    host: str
    port: int
    uid: str = ""


class Endpoint:
    """One pod as the router sees it."""

    __slots__ = ("address", "ejected_until", "host", "host_header", "in_flight", "port", "withdrawn")

    def __init__(self, address: Address) -> None:
        self.host = address.host
        self.port = address.port
        shown = f"[{address.host}]" if ":" in address.host else address.host
        self.address = f"{shown}:{address.port}"
        self.host_header = self.address.encode()
        self.in_flight = 0
        self.ejected_until = 0.0
        self.withdrawn = False  # terminating, unready or gone: nothing new, running requests go on

    def __repr__(self) -> str:
        return f"Endpoint({self.address}, in_flight={self.in_flight})"


class Route:
    """A deployment, its pods that are ready, and its figures."""

    __slots__ = ("_ejected_until", "deployment", "figures", "ready")

    def __init__(self, deployment: Deployment, figures: Figures, ready: tuple[Endpoint, ...] = ()) -> None:
        self.deployment = deployment
        self.figures = figures.of(deployment.key)
        self.ready = ready
        self._ejected_until = 0.0  # the latest of all pods

    def eject(self, endpoint: Endpoint, until: float) -> None:
        """Sets aside a pod that has failed: dead, it has the fewest requests in flight and would draw all."""
        endpoint.ejected_until = self._ejected_until = until

    def candidates(self, now: float, tried: Collection[Endpoint]) -> Sequence[Endpoint]:
        """Pods that may take a request: untried and not ejected; when all the untried are ejected, those."""
        if not tried and self._ejected_until <= now:
            return self.ready
        untried = [e for e in self.ready if e not in tried]
        return [e for e in untried if e.ejected_until <= now] or untried


class Registry:
    """Deployments and pods, fed by discovery and asked by the data path."""

    def __init__(
        self, figures: Figures, on_withdrawn: Callable[[Endpoint], None] = lambda endpoint: None
    ) -> None:
        self._figures = figures
        self._on_withdrawn = on_withdrawn
        self._deployments: dict[str, Deployment] = {}
        self._endpoints: dict[str, dict[Address, Endpoint]] = {}
        self._routes: dict[str, Route] = {}  # by key
        self._by_name: dict[str, Route] = {}
        self._cards: dict[str, ModelCard] = {}

    def set_deployments(self, deployments: Mapping[str, Deployment]) -> None:
        """Replaces all deployments."""
        self._deployments = dict(deployments)
        self._rebuild()

    def set_addresses(self, key: str, addresses: Collection[Address]) -> None:
        """Replaces the ready pods of one deployment. Pods that stay keep their counts and connections."""
        known = self._endpoints.get(key, {})
        fresh = {
            a: known.get(a) or Endpoint(a) for a in sorted(addresses, key=lambda a: (a.host, a.port, a.uid))
        }
        self._endpoints[key] = fresh
        if key in self._routes:
            self._routes[key].ready = tuple(fresh.values())
        if not fresh:
            del self._endpoints[key]
        for address in known.keys() - fresh.keys():
            known[address].withdrawn = True
            self._on_withdrawn(known[address])

    def resolve(self, model: str) -> Route:
        """The route of a model name. Raises UnknownModelError, which names the known ones."""
        route = self._by_name.get(model)
        if route is None:
            known = name_some(self._cards)
            raise UnknownModelError(f"There is no model named {model[:200]!r}; the known ones: {known}.")
        return route

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
        self._routes = {key: self._route(key, d) for key, d in self._deployments.items()}
        owners = claim_names(self._deployments.values())
        self._by_name = {name: self._routes[d.key] for name, d in owners.items()}
        self._cards = {name: _card(name, d) for name, d in listed_names(owners).items()}

    def _route(self, key: str, deployment: Deployment) -> Route:
        """The route of a key; the same object as long as the deployment lives, for requests that hold it."""
        route = self._routes.get(key) or Route(
            deployment, self._figures, tuple(self._endpoints.get(key, {}).values())
        )
        route.deployment = deployment
        return route


def _card(name: str, deployment: Deployment) -> ModelCard:
    created = int(datetime.fromisoformat(deployment.created).timestamp()) if deployment.created else 0
    return ModelCard(name, created, deployment.owner, deployment.served_name)
