"""kopf's part: process life and login. It watches nothing: its events have no end of the initial list,
forget what vanishes while a watch is expired, and cost a task and two copies each (docs/performance.md).
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf


class Endless:
    """Seconds between attempts when the API server fails; kopf ends the operator when these end."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay
            delay = min(delay * 2, 30.0)


def registry(login: kopf.ConnectionInfo, stop: Callable[[], Awaitable[None]]) -> kopf.OperatorRegistry:
    """A registry of its own: kopf's default one imports the `kubernetes` package where that is installed."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection() or login

    @kopf.on.cleanup(registry=handlers)
    async def end(**_: Any) -> None:
        await stop()  # kopf would wait for connections that are open

    return handlers


def settings() -> kopf.OperatorSettings:
    """kopf without events, peering and scans of the cluster, and without giving up."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.networking.error_backoffs = Endless()
    return chosen


def connection() -> kopf.ConnectionInfo | None:
    """The cluster of KUBECONFIG when that is set, else the one this pod runs in."""
    chosen = kopf.OperatorSettings()
    return kopf.login_with_kubeconfig(settings=chosen) or kopf.login_with_service_account(settings=chosen)
