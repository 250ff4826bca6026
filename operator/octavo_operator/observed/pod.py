"""One engine pod, as it is at the API server."""

import datetime
from typing import Any

import msgspec

from octavo_operator.names import DEPLOYMENT_LABEL, GROUP_LABEL, MEMBER_LABEL, TEMPLATE_ANNOTATION, Key
from octavo_operator.observed.wire import Condition, Meta, Wire

EARLIEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Terminated(Wire, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class Waiting(Wire, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerState(Wire, frozen=True):
    waiting: Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: Terminated | None = None


class ContainerStatus(Wire, frozen=True):
    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(Wire, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[Condition] = msgspec.field(default_factory=list)
    container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)
    init_container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)


class Pod(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """One engine pod."""

    name: str
    namespace: str
    deployment: str
    uid: str = ""
    version: int = 0
    template: str = ""
    made: datetime.datetime = EARLIEST
    left: datetime.datetime | None = None  # when it was told to end; EARLIEST where that is not known
    labels: dict[str, str] = {}
    status: PodStatus = PodStatus()

    @property
    def key(self) -> Key:
        """Of the resource it serves."""
        return self.namespace, self.deployment

    @property
    def leaving(self) -> bool:
        return self.left is not None

    @property
    def ready(self) -> bool:
        return not self.leaving and any(
            c.type == "Ready" and c.status == "True" for c in self.status.conditions
        )

    @property
    def leads(self) -> bool:
        """Whether it answers requests: of a group's pods the leader alone does."""
        return GROUP_LABEL not in self.labels or self.labels.get(MEMBER_LABEL) == "0"

    def same_as(self, other: "Pod | None") -> bool:
        return other is not None and msgspec.structs.replace(self, version=other.version) == other


class _PodMeta(Meta, frozen=True):
    creation_timestamp: datetime.datetime = EARLIEST
    deletion_grace_period_seconds: int = 0

    @property
    def left(self) -> datetime.datetime | None:
        """The deletion timestamp is when it is to have ended.

        In its last moment, without grace, it is set anew and tells no more when that began.
        """
        if self.deletion_timestamp is None:
            return None
        if self.deletion_grace_period_seconds == 0:
            return EARLIEST
        grace = datetime.timedelta(seconds=self.deletion_grace_period_seconds)
        return datetime.datetime.fromisoformat(self.deletion_timestamp) - grace


class _PodObject(Wire, frozen=True):
    metadata: _PodMeta
    status: PodStatus = PodStatus()


_pod_decoder = msgspec.json.Decoder(_PodObject)


def decode_pod(data: bytes | msgspec.Raw) -> Pod:
    """Return the pod of an API object's JSON."""
    found = _pod_decoder.decode(data)
    meta = found.metadata
    return Pod(
        name=meta.name,
        namespace=meta.namespace,
        deployment=meta.labels.get(DEPLOYMENT_LABEL, ""),
        uid=meta.uid,
        version=int(meta.resource_version),
        template=meta.annotations.get(TEMPLATE_ANNOTATION, ""),
        made=meta.creation_timestamp,
        left=meta.left,
        labels=meta.labels,
        status=found.status,
    )
