"""kopf's part: process life, login, and the events of LLMDeployments, which only feed the store."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import kopf
import msgspec

from octavo_operator.api import parse
from octavo_operator.names import GROUP, PLURAL, VERSION
from octavo_operator.store import Store

log = logging.getLogger(__name__)


class Endless:
    """Seconds between attempts when the API server fails; kopf ends the operator when these end."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay
            delay = min(delay * 2, 30.0)


def registry(
    store: Store, login: kopf.ConnectionInfo, stop: Callable[[], Awaitable[None]]
) -> kopf.OperatorRegistry:
    """A registry of its own: kopf's default one imports the `kubernetes` package where that is installed."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection() or login

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def heard(event: Mapping[str, Any], **_: Any) -> None:
        feed(store, event["type"], event["object"])

    @kopf.on.cleanup(registry=handlers)
    async def end(**_: Any) -> None:
        await stop()  # kopf would wait for connections that are open

    return handlers


def feed(store: Store, kind: str | None, body: Mapping[str, Any]) -> None:
    """Take one watch event into the store; echoes of own writes are known already."""
    meta = body["metadata"]
    key = (meta["namespace"], meta["name"])
    if kind != "DELETED" and store.has(key, meta["uid"], int(meta["resourceVersion"])):
        return
    try:
        llmd = parse(body)
    except msgspec.ValidationError as error:
        log.error(
            "LLMDeployment %s/%s does not fit the operator's schema, is its CRD current? %s", *key, error
        )
        return
    if kind == "DELETED":
        store.remove(llmd)
    else:
        store.put(llmd)


class _NoProgress(kopf.ProgressStorage):
    """Nothing is kept on the resource, so nothing has to be looked for, or copied, at every event."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class _NoDiffs(kopf.DiffBaseStorage):
    """The same for the former state: the planner compares with what is there."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def settings() -> kopf.OperatorSettings:
    """kopf without annotations, finalizers, events and peering, and without giving up."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.networking.error_backoffs = Endless()
    chosen.persistence.progress_storage = _NoProgress()
    chosen.persistence.diffbase_storage = _NoDiffs()
    chosen.queueing.idle_timeout = 0.1
    chosen.watching.server_timeout = 300
    return chosen


def connection() -> kopf.ConnectionInfo | None:
    """The cluster of KUBECONFIG when that is set, else the one this pod runs in."""
    chosen = kopf.OperatorSettings()
    return kopf.login_with_kubeconfig(settings=chosen) or kopf.login_with_service_account(settings=chosen)
