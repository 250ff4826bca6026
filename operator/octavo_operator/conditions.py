"""What is observed -> conditions as kstatus reads them, and the rest of the status. Pure.

Ready        all wanted pods are of the current spec and answer (or none are wanted)
Reconciling  the operator and the cluster are on the way to that
Stalled      they are not, and will not be until a person changes something
Available    at least one pod answers
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from octavo_operator.api import Condition, LLMDeployment, Status
from octavo_operator.causes import DOWNLOAD_FAILED, Cause, worst, worst_member
from octavo_operator.desired.meta import selector
from octavo_operator.downloads import Fetching
from octavo_operator.observed.child import Child, DeploymentStatus
from octavo_operator.observed.pod import Pod

DOWNLOADING = "Downloading"
READY, LOADING, ROLLING, SCALED_TO_ZERO = "AllPodsReady", "Loading", "RollingOut", "ScaledToZero"


class Seen(msgspec.Struct, frozen=True):
    """All that a resource's status is made of. `blockers` kept the operator from making a child right.

    `downloads`: what the pods say, by name, whose model is on its way.
    """

    deployment: Child | None
    pods: Sequence[Pod]
    template: str  # hash of the pod template that is wanted
    blockers: Sequence[Cause] = ()
    downloads: Mapping[str, Fetching] = {}
    sleeps: bool = False  # without requests no pods are wanted
    rescaled: bool = False  # the operator itself has just set the number of replicas


def status_of(llmd: LLMDeployment, seen: Seen, now: str) -> Status:
    """The whole status; equal to the former one, times included, when nothing has changed."""
    found = seen.deployment.status if seen.deployment else DeploymentStatus()
    wanted = wanted_replicas(llmd, seen.deployment)
    fetching = slowest(seen)
    return Status(
        pods_per_replica=llmd.spec.group_size,
        observed_generation=llmd.metadata.generation,
        replicas=found.replicas,
        ready_replicas=found.ready_replicas,
        ready=f"{found.ready_replicas}/{wanted}",
        selector=",".join(f"{name}={value}" for name, value in selector(llmd.metadata.name).items()),
        download=fetching.download if fetching else None,
        conditions=[_dated(c, llmd, now) for c in conditions(llmd, seen, wanted)],
        wake_requested=llmd.status.wake_requested,
        wake_handled=llmd.status.wake_requested if seen.rescaled else llmd.status.wake_handled,
    )


def wanted_replicas(llmd: LLMDeployment, deployment: Child | None) -> int:
    """With autoscaling the HPA's choice, as far as the Deployment shows one."""
    if llmd.spec.autoscaling is None:
        return 1 if llmd.spec.replicas is None else llmd.spec.replicas
    shown = deployment.replicas if deployment else None
    return llmd.spec.autoscaling.min_replicas if shown is None else shown


def conditions(llmd: LLMDeployment, seen: Seen, wanted: int) -> list[Condition]:
    cause = explain(seen, wanted, llmd.spec.group_size)
    ready, stalled = cause.reason in (READY, SCALED_TO_ZERO), cause.final
    available = seen.deployment.status.ready_replicas if seen.deployment else 0
    return [
        _condition("Ready", ready, cause.reason, cause.message),
        _condition("Reconciling", not ready and not stalled, cause.reason, cause.message),
        _condition("Stalled", stalled, cause.reason, cause.message),
        _availability(available, cause, wanted, unit_of(llmd.spec.group_size)),
    ]


def unit_of(group_size: int) -> str:
    return "pod" if group_size == 1 else "group"


def explain(seen: Seen, wanted: int, group_size: int = 1) -> Cause:
    """The one reason that all conditions give."""
    unit = unit_of(group_size)
    if seen.blockers:
        return next((b for b in seen.blockers if b.final), seen.blockers[0])
    if seen.deployment is None:
        text = "the Deployment is" if unit == "pod" else "the groups are"
        return Cause(LOADING, f"{text} being created")
    if is_complete(seen.deployment, wanted):
        return finished(wanted, seen.sleeps, unit)
    pods = [pod for pod in current_pods(seen) if pod.name not in seen.downloads]
    stuck = worst(pods) if unit == "pod" else worst_member(pods)
    if stuck and stuck.final:
        return stuck
    return (
        downloading(slowest(seen))
        or stuck
        or refused_pods(seen.deployment)
        or overdue(seen.deployment)
        or on_the_way(seen, wanted, unit)
    )


def current_pods(seen: Seen) -> list[Pod]:
    return [pod for pod in seen.pods if pod.template == seen.template]


def slowest(seen: Seen) -> Fetching | None:
    """Of the current pods that download, the one that is least far."""
    found = [seen.downloads[pod.name] for pod in current_pods(seen) if pod.name in seen.downloads]
    return min(found, key=lambda said: said.downloaded_bytes, default=None)


def downloading(said: Fetching | None) -> Cause | None:
    if said and said.trouble:
        so_far = f" ({said.download.progress} is there)" if said.download else ""
        return Cause(DOWNLOAD_FAILED, f"{said.trouble} It is tried again{so_far}.")
    if said is None or said.download is None:
        return None
    file = f", {said.download.file}" if said.download.file else ""
    return Cause(DOWNLOADING, f"the model is being downloaded: {said.download.progress}{file}")


def is_complete(deployment: Child, wanted: int) -> bool:
    """The Deployment controller has seen this spec, and every pod is a new one and ready."""
    found = deployment.status
    counts = (found.replicas, found.updated_replicas, found.ready_replicas)
    return found.observed_generation >= deployment.generation and all(count == wanted for count in counts)


def finished(wanted: int, sleeps: bool, unit: str = "pod") -> Cause:
    if wanted == 0 and sleeps:
        return Cause(SCALED_TO_ZERO, f"idle: a {unit} is started when a request comes")
    if wanted == 0:
        return Cause(SCALED_TO_ZERO, f"no {unit}s are wanted: spec.replicas is 0")
    return Cause(READY, f"the {unit} answers" if wanted == 1 else f"all {wanted} {unit}s answer")


def refused_pods(deployment: Child) -> Cause | None:
    """A quota or an admission rule keeps the ReplicaSet from creating pods."""
    for condition in deployment.status.conditions:
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return Cause("PodsRefused", f"pods cannot be created: {condition.message}")
    return None


def overdue(deployment: Child) -> Cause | None:
    for condition in deployment.status.conditions:
        if condition.type == "Progressing" and condition.reason == "ProgressDeadlineExceeded":
            text = "the pods did not get ready within startupSeconds; see the logs of the pods"
            return Cause("StartupTimeout", text, final=True)
    return None


def on_the_way(seen: Seen, wanted: int, unit: str = "pod") -> Cause:
    found = seen.deployment.status if seen.deployment else DeploymentStatus()
    if found.replicas > found.updated_replicas > 0 or found.updated_replicas < found.ready_replicas:
        current = f"{found.updated_replicas} of {wanted} {unit}s are of the current spec"
        return Cause(ROLLING, f"{current}, {found.ready_replicas} answer")
    if wanted == 1:
        return Cause(LOADING, f"the {unit} is starting or loading the model{awaited_members(seen, unit)}")
    others = f"the others are starting or loading{awaited_members(seen, unit)}"
    return Cause(LOADING, f"{found.ready_replicas} of {wanted} {unit}s answer, {others}")


def awaited_members(seen: Seen, unit: str) -> str:
    """The pods that hold their groups up."""
    names = sorted(pod.name for pod in current_pods(seen) if not pod.ready)
    return f": not ready are {', '.join(names)}" if unit == "group" and names else ""


def _availability(ready: int, cause: Cause, wanted: int, unit: str) -> Condition:
    if ready:
        return _condition("Available", True, "PodsAnswer", f"{ready} of {wanted} {unit}s answer")
    return _condition("Available", False, cause.reason, cause.message)


def _condition(kind: str, holds: bool, reason: str, message: str) -> Condition:
    status = "True" if holds else "False"
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time="")


def _dated(condition: Condition, llmd: LLMDeployment, now: str) -> Condition:
    """The time of the last change of `status`, which stays when only reason or message change."""
    former = next((c for c in llmd.status.conditions if c.type == condition.type), None)
    unchanged = former is not None and former.status == condition.status
    return msgspec.structs.replace(
        condition,
        observed_generation=llmd.metadata.generation,
        last_transition_time=former.last_transition_time if former and unchanged else now,
    )


def ready_condition(conditions: Iterable[Condition]) -> Condition | None:
    return next((c for c in conditions if c.type == "Ready"), None)
