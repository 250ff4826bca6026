"""The resources as last heard of."""

from collections.abc import Callable

import msgspec

from octavo_operator.api import LLMDeployment, Status
from octavo_operator.names import Key


class Store:
    """LLMDeployments by key; `changed` hears of each that differs in what the operator looks at."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._found: dict[Key, LLMDeployment] = {}
        self._changed = changed

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Key) -> LLMDeployment | None:
        return self._found.get(key)

    def all(self) -> list[LLMDeployment]:
        return list(self._found.values())

    def put(self, llmd: LLMDeployment) -> None:
        """Take a resource in, unless a later version is known, be it of another resource of its name."""
        former = self._found.get(llmd.key)
        if former and former.version >= llmd.version:
            return
        self._found[llmd.key] = llmd
        if former is None or _looked_at(former) != _looked_at(llmd):
            self._changed(llmd.key)

    def heard(self, former: LLMDeployment | None, present: LLMDeployment | None) -> None:
        """Take one change of the informer's cache in."""
        if present is not None:
            self.put(present)
        elif former is not None:
            self.remove(former)

    def remove(self, llmd: LLMDeployment) -> None:
        """Forget that very resource, and no later one of its name."""
        former = self._found.get(llmd.key)
        if former and former.metadata.uid == llmd.metadata.uid:
            del self._found[llmd.key]
            self._changed(llmd.key)


def _looked_at(llmd: LLMDeployment) -> LLMDeployment:
    """Without the version and what the operator itself writes into the status."""
    meta = msgspec.structs.replace(llmd.metadata, resource_version="0")
    status = Status(wake_requested=llmd.status.wake_requested)
    return msgspec.structs.replace(llmd, metadata=meta, status=status)
