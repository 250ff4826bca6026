"""Kubernetes Events about a resource: what a person wants to see in `kubectl describe`, each once."""

import datetime
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from octavo_operator.api import LLMDeployment
from octavo_operator.names import API_VERSION, FIELD_MANAGER, KIND

REMEMBERED = 4096
LONGEST_MESSAGE = 1000  # characters; the API server takes 1024 bytes

Type = Literal["Normal", "Warning"]


class Sink(Protocol):
    async def record(self, event: Mapping[str, Any], count: int) -> None: ...


class Recorder:
    """Records events; one that has been told before is counted, not told again."""

    def __init__(self, sink: Sink, now: Callable[[], datetime.datetime]) -> None:
        self._sink = sink
        self._now = now
        self._told: OrderedDict[str, int] = OrderedDict()

    async def tell(self, llmd: LLMDeployment, kind: Type, reason: str, message: str) -> None:
        """Record one event.

        Raises:
            ApiError: the API server did not take it.
        """
        event = event_of(llmd, kind, reason, message, self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        name = event["metadata"]["name"]
        count = self._told.get(name, 0) + 1
        await self._sink.record({**event, "count": count}, count)
        self._told[name] = count
        self._told.move_to_end(name)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)


def event_name(llmd: LLMDeployment, reason: str, message: str) -> str:
    """The same for the same news, so that a restarted operator does not tell it twice."""
    told = hashlib.sha256("\0".join((llmd.metadata.uid, reason, message)).encode()).hexdigest()[:16]
    return f"{llmd.metadata.name}.{told}"


def event_of(llmd: LLMDeployment, kind: Type, reason: str, message: str, moment: str) -> dict[str, Any]:
    """A core/v1 Event, which every kubectl shows."""
    meta = llmd.metadata
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(llmd, reason, message), "namespace": meta.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "type": kind,
        "reason": reason,
        "message": message[:LONGEST_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": "",
        "firstTimestamp": moment,
        "lastTimestamp": moment,
    }
