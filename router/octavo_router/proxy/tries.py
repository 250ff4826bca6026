"""The pods that one request is given to, one after the other, until one begins to answer. Pure: no clock."""

from __future__ import annotations

import msgspec

from octavo_router.endpoints import Endpoint, Route
from octavo_router.errors import NoReadyPodError, RouterError, UnreachableError
from octavo_router.metrics import Figures
from octavo_router.prompt import Asked, Features

_FAULTS = (500, 502, 504)
_ANSWERED = Features(Asked(""))


class Tries(msgspec.Struct, eq=False):
    """Picks each pod by the route's policy, retries within its budget, and tells its breakers how it went."""

    route: Route
    features: Features
    figures: Figures
    most: int  # pods that may be tried, each once
    endpoint: Endpoint | None = None  # has the request now
    failed: tuple[Endpoint, ...] = ()

    @property
    def count(self) -> int:
        return len(self.failed) + (self.endpoint is not None)

    def next(self, now: float) -> Endpoint | None:
        """Gives the request to another pod; None: there is none, or no retry is left."""
        failed, route = self.failed, self.route
        candidates = route.candidates(now, failed)
        if not candidates or (failed and not (len(failed) < self.most and route.may_retry(now))):
            return None
        self.endpoint = endpoint = route.policy.choose(candidates, self.features)
        endpoint.enter(now)
        if failed:
            self.figures.retries += 1
        return endpoint

    def may_go_on(self, now: float) -> bool:
        """Whether there is another pod for the request than the one that has it."""
        if len(self.failed) + 1 >= self.most:
            return False
        return any(e is not self.endpoint for e in self.route.candidates(now, self.failed))

    def fail(self, now: float) -> None:
        """The pod that has the request gave no answer, or is leaving: it is set aside."""
        if (endpoint := self.leave()) is not None:
            self.figures.ejections += self.route.failed(endpoint, now)
            self.failed = (*self.failed, endpoint)

    def answered(self, status: int, now: float) -> None:
        """The pod has begun to answer. What the request held of its body is free from here on."""
        endpoint = self.endpoint
        self.features = _ANSWERED
        if endpoint is None or (status < 500 and endpoint.breaker.closed):
            return
        if status < 500:
            self.route.succeeded(endpoint)
        elif status in _FAULTS:
            self.figures.ejections += self.route.faulted(endpoint, now)

    def leave(self) -> Endpoint | None:
        """The pod that has the request has done with it."""
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            endpoint.leave()
        return endpoint

    def start_anew(self) -> None:
        """Pods that come from now on are not those that failed."""
        self.failed = ()

    def why_none(self) -> RouterError:
        """What a client is told when there is no next pod."""
        route, model, tried = self.route, self.features.asked.model, len(self.failed)
        if route.deployment.stalled and not route.ready:
            return NoReadyPodError(f"The model {model!r} cannot be started: {route.deployment.stalled}")
        if route.deployment.sleeps and not route.ready:
            return NoReadyPodError(
                f"The model {model!r} is starting, and {route.holds} requests wait for it already; "
                "try again in a few seconds."
            )
        if not tried:
            return NoReadyPodError(
                f"The model {model!r} has no ready pod at the moment; try again in a few seconds."
            )
        return UnreachableError(f"No pod of the model {model!r} could be reached ({tried} tried); try again.")
