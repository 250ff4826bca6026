"""How far the pods are that download their model: what each last said of itself. Pure."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from octavo_operator.api import Download
from octavo_operator.names import FETCH_CONTAINER
from octavo_operator.observed.pod import Pod

_UNITS = ("B", "kB", "MB", "GB", "TB")
PodName = tuple[str, str]
"""Namespace and name."""


class Fetching(msgspec.Struct, frozen=True):
    """What a pod that downloads its model last said: how far it is, and why its last try failed.

    `download` is None before the size is known, `trouble` is empty while all goes well.
    """

    download: Download | None
    trouble: str = ""

    @property
    def downloaded_bytes(self) -> int:
        """-1 before the size is known."""
        return self.download.downloaded_bytes if self.download else -1

    @property
    def shown(self) -> tuple[str, str, str]:
        """What a person is told of it."""
        done = (self.download.progress, self.download.file) if self.download else ("", "")
        return *done, self.trouble


# A user's own image may say anything; the status has to take what is read.
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class _Said(msgspec.Struct, rename="camel", frozen=True):
    downloaded_bytes: Size
    total_bytes: Size
    file: Text = ""
    trouble: Text = ""


class _Health(msgspec.Struct, frozen=True):
    download: _Said


class Downloads:
    """The latest of each pod."""

    def __init__(self) -> None:
        self._latest: dict[PodName, Fetching] = {}

    def take(self, pod: Pod, said: Fetching) -> bool:
        """True when it differs in what a person is shown."""
        former = self._latest.get((pod.namespace, pod.name))
        self._latest[pod.namespace, pod.name] = said
        return former is None or former.shown != said.shown

    def keep(self, pods: Iterable[Pod]) -> None:
        """Forget all pods but these."""
        kept = {(pod.namespace, pod.name) for pod in pods}
        self._latest = {name: found for name, found in self._latest.items() if name in kept}

    def of(self, pods: Iterable[Pod], told: Download | None = None) -> dict[str, Fetching]:
        """By name; pods whose download has ended have none.

        `told` is what the status says: it stands for pods that a new operator has not asked yet.
        """
        former = Fetching(told) if told else None
        found = (
            (pod.name, self._latest.get((pod.namespace, pod.name), former))
            for pod in pods
            if is_fetching(pod)
        )
        return {name: said for name, said in found if said is not None}


def is_fetching(pod: Pod) -> bool:
    return not pod.leaving and any(
        status.name == FETCH_CONTAINER and status.state.running is not None
        for status in pod.status.init_container_statuses
    )


def parse(health: bytes) -> Fetching | None:
    """What a pod's /health says of its download; None while there is nothing to tell.

    Raises:
        msgspec.MsgspecError: it is no answer of a downloading pod.
        UnicodeDecodeError: it is not even text.
    """
    said = msgspec.json.decode(health, type=_Health).download
    if not said.total_bytes:
        return Fetching(None, said.trouble) if said.trouble else None
    percent = min(100, 100 * said.downloaded_bytes // said.total_bytes)
    download = Download(
        downloaded_bytes=said.downloaded_bytes,
        total_bytes=said.total_bytes,
        percent=percent,
        file=said.file,
        progress=f"{percent}% of {size_text(said.total_bytes)}",
    )
    return Fetching(download, said.trouble)


def size_text(count: int) -> str:
    """`16.1 GB`: decimal units, as hubs show sizes."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 100 else f"{value:.0f} {_UNITS[unit]}"
