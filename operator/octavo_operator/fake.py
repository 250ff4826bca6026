"""A Cluster in memory, for tests: merges what is applied, counts writes, and fails when told to."""

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from octavo_operator.api import LLMDeployment, Status
from octavo_operator.desired.meta import Manifest
from octavo_operator.errors import AlreadyExistsError
from octavo_operator.names import Key
from octavo_operator.observed.child import Child, decode_child
from octavo_operator.observed.pod import Pod
from octavo_operator.plan import Apply, Delete

ObjectName = tuple[str, Key]
"""Kind, and namespace and name."""


class FakeCluster:
    """`objects` is all there is; what carries the operator's label is in the caches, as in the real one."""

    def __init__(self) -> None:
        self.objects: dict[ObjectName, Manifest] = {}
        self.resources: dict[Key, LLMDeployment] = {}
        self.pods_of: dict[Key, list[Pod]] = {}
        self.writes: list[str] = []
        self.events: list[Mapping[str, Any]] = []
        self.failures: dict[str, Exception] = {}  # by kind; raised by apply
        self.kept: dict[str, Exception] = {}  # by kind; raised by delete
        self._version = 0

    def children(self, key: Key) -> dict[str, Child]:
        found = [self._child(kind, at) for kind, at in self.objects if at[0] == key[0]]
        return {c.slot: c for c in found if c.labelled and c.resource == key[1]}

    def pods(self, key: Key) -> list[Pod]:
        return self.pods_of.get(key, [])

    async def look_up(self, kind: str, key: Key) -> Child | None:
        return self._child(kind, key) if (kind, key) in self.objects else None

    async def resource(self, key: Key) -> LLMDeployment | None:
        return self.resources.get(key)

    async def apply(self, write: Apply) -> Child:
        if write.kind in self.failures:
            raise self.failures[write.kind]
        meta = write.manifest["metadata"]
        key = (meta["namespace"], meta["name"])
        if write.creates and (write.kind, key) in self.objects:
            raise AlreadyExistsError(409, "AlreadyExists", "there is one")
        self.writes.append(f"apply {write.kind} as {write.manager}")
        self.put(write.manifest)
        return self._child(write.kind, key)

    async def delete(self, write: Delete) -> None:
        if write.kind in self.kept:
            raise self.kept[write.kind]
        self.writes.append(f"delete {write.kind}")
        self.objects.pop((write.kind, write.key), None)

    async def patch_status(self, llmd: LLMDeployment, status: Status) -> LLMDeployment:
        self.writes.append("status")
        meta = msgspec.structs.replace(llmd.metadata, resource_version=str(llmd.version + 1))
        patched = msgspec.structs.replace(llmd, status=status, metadata=meta)
        self.resources[llmd.key] = patched
        return patched

    async def record(self, event: Mapping[str, Any], count: int) -> None:
        self.events.append({**event, "count": count})

    def put(self, manifest: Manifest) -> None:
        """Merge a manifest into the object of its name, as somebody else or the operator would."""
        meta = manifest["metadata"]
        at = (str(manifest["kind"]), (meta["namespace"], meta["name"]))
        self._version += 1
        self.objects[at] = merge(self.objects.get(at, {}), manifest)
        if at[0] in ("Deployment", "GroupScale"):
            self.objects[at]["spec"].setdefault("replicas", 1)
        self.objects[at]["metadata"] |= {
            "uid": f"uid-{at[0]}-{at[1][1]}",
            "resourceVersion": str(self._version),
        }

    def _child(self, kind: str, key: Key) -> Child:
        return decode_child(kind, msgspec.json.encode(self.objects[kind, key]))


def merge(under: Any, over: Any) -> Any:
    """Maps are merged; everything else is replaced."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    return {**under, **{name: merge(under.get(name), value) for name, value in over.items()}}
