"""Pods -> why they are not ready, in words. Pure."""

from collections.abc import Callable, Iterable

import msgspec

from octavo_operator.names import CONTAINER, FETCH_CONTAINER
from octavo_operator.observed.pod import ContainerState, ContainerStatus, Pod, Terminated

WRONG_SETTING = 2
"""The engine's exit code for a setting that will not mend by itself."""
OUT_OF_MEMORY = "OOMKilled"
DOWNLOAD_FAILED = "DownloadFailed"
NAME_TAKEN, REFUSED, REPLACING = "NameTaken", "ChildRefused", "Replacing"
BLOCKED = frozenset({NAME_TAKEN, REFUSED, REPLACING})
"""Reasons for which a child may never have been made."""


class Cause(msgspec.Struct, frozen=True):
    """Why something does not go on. `final`: it will not mend by itself, a person has to change something."""

    reason: str
    message: str
    final: bool = False


def worst(pods: Iterable[Pod]) -> Cause | None:
    """The cause to tell: one that is final before one that may pass, else that of the first pod by name."""
    found = [cause for pod in sorted(pods, key=lambda p: p.name) if (cause := why(pod)) is not None]
    return next((c for c in found if c.final), found[0] if found else None)


def worst_member(pods: Iterable[Pod]) -> Cause | None:
    """Of a group's pods: what keeps one from starting comes before the crashes of those that miss it."""
    members = [pod for pod in sorted(pods, key=lambda p: p.name) if not (pod.leaving or pod.ready)]
    found = [cause for look in LOOKS for pod in members if (cause := look(pod)) is not None]
    return next((c for c in found if c.final), found[0] if found else None)


def why(pod: Pod) -> Cause | None:
    """The cause that keeps a pod from being ready; None while it is on its way."""
    if pod.leaving or pod.ready:
        return None
    return next((cause for look in LOOKS if (cause := look(pod)) is not None), None)


def unschedulable(pod: Pod) -> Cause | None:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False" and condition.message:
            gated = condition.reason == "SchedulingGated"
            return Cause(
                "SchedulingGated" if gated else "Unschedulable",
                f"pod {pod.name} cannot be scheduled: {condition.message}",
            )
    return None


def image_not_pulled(pod: Pod) -> Cause | None:
    for status, state in _states(pod):
        waiting = state.waiting
        if waiting and waiting.reason in (
            "ErrImagePull",
            "ImagePullBackOff",
            "InvalidImageName",
            "ErrImageNeverPull",
        ):
            detail = f": {waiting.message}" if waiting.message else ""
            final = waiting.reason == "InvalidImageName"
            return Cause(
                "ImagePullFailed", f"image {status.image} of pod {pod.name} cannot be pulled{detail}", final
            )
    return None


def not_created(pod: Pod) -> Cause | None:
    for _, state in _states(pod):
        waiting = state.waiting
        if waiting and waiting.reason in (
            "CreateContainerConfigError",
            "CreateContainerError",
            "RunContainerError",
        ):
            return Cause(
                "ContainerNotStarted", f"the container of pod {pod.name} cannot be started: {waiting.message}"
            )
    return None


def crashed(pod: Pod) -> Cause | None:
    for status, state in _states(pod):
        ended = state.terminated or status.last_state.terminated
        if ended and not status.ready and (status.name == CONTAINER or ended.exit_code):
            return crash(pod, status, ended)
    return None


def crash(pod: Pod, status: ContainerStatus, ended: Terminated) -> Cause:
    """The engine's last error line is its own sentence for the user."""
    if ended.reason == OUT_OF_MEMORY:
        text = (
            f"{status.name} of pod {pod.name} was killed for using more memory than resources.memory allows"
        )
        return Cause("OutOfMemory", f"{text} ({times(status.restart_count)})")
    said = last_line(ended.message) or f"exit code {ended.exit_code} without a message"
    part = "Download" if status.name == FETCH_CONTAINER else "Engine"
    if ended.exit_code == WRONG_SETTING:
        return Cause(f"{part}Refused", said, final=True)
    return Cause(
        DOWNLOAD_FAILED if status.name == FETCH_CONTAINER else "EngineCrashed",
        f"{said} (pod {pod.name}, exit code {ended.exit_code}, {times(status.restart_count)})",
    )


def evicted(pod: Pod) -> Cause | None:
    if pod.status.phase == "Failed":
        detail = pod.status.message or pod.status.reason or "no message"
        return Cause("PodFailed", f"pod {pod.name} failed: {detail}")
    return None


LOOKS: tuple[Callable[[Pod], Cause | None], ...] = (
    unschedulable,
    image_not_pulled,
    not_created,
    crashed,
    evicted,
)


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def times(restarts: int) -> str:
    return {0: "not restarted yet", 1: "restarted once"}.get(restarts, f"restarted {restarts} times")


def _states(pod: Pod) -> Iterable[tuple[ContainerStatus, ContainerState]]:
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        yield status, status.state
