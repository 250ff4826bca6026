"""Which groups a resource is to have now, and what they amount to. Pure.

A group whose pod template has changed is replaced whole: it is deleted, and made anew when its pods are gone.
"""

import datetime
from collections.abc import Iterable, Mapping

import msgspec

from octavo_operator.api import LLMDeployment
from octavo_operator.names import GROUP_LABEL, group_name
from octavo_operator.observed.child import Child, Children, DeploymentStatus
from octavo_operator.observed.pod import Pod


class Group(msgspec.Struct, frozen=True):
    """What counts of one that is there. `current`: of the wanted template. `leaving`: its pods are ending."""

    current: bool
    ready: bool
    leaving: bool = False


class Choice(msgspec.Struct, frozen=True):
    """Indices of groups to make or to hold right, and of older ones that stay for now; the rest is to go."""

    made: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


def choose(present: Mapping[int, Group], wanted: int, surge: int, unavailable: int) -> Choice:
    """At most `wanted + surge` groups; of those that are ready, as many stay as `unavailable` asks for.

    A surge group, whose index lies above the wanted ones, stays until all of these are ready again.
    """
    here = {index: group for index, group in present.items() if not group.leaving}
    old = [index for index, group in here.items() if not group.current]
    low = [index for index in range(wanted) if index not in here or not here[index].ready]
    surged = [index for index in here if index >= wanted and here[index].ready]
    limit = wanted + (surge if old or (low and surged) else 0)
    if wanted and not old:
        limit = min(limit, max([wanted, *(index + 1 for index in surged)]))
    kept = [index for index in old if index < limit]
    for index in replaceable(here, kept, wanted - unavailable):
        kept.remove(index)
    made = [i for i in range(limit) if i not in old and not (i in present and present[i].leaving)]
    return Choice(made=tuple(made), kept=tuple(sorted(kept)))


def replaceable(here: Mapping[int, Group], old: list[int], needed: int) -> list[int]:
    """Old groups that may go: those that do not answer anyway, and as many as are spare of those that do."""
    spare = max(0, sum(group.ready for group in here.values()) - needed)
    answering = sorted((index for index in old if here[index].ready), reverse=True)
    return [index for index in old if not here[index].ready] + answering[:spare]


def chosen(llmd: LLMDeployment, observed: Children, template: str) -> Choice:
    """The groups of a resource, as its StatefulSets are now."""
    surge, unavailable = allowance(llmd, wanted := wanted_groups(llmd, observed))
    present = {
        index: Group(child.template == template, child.ready, child.leaving)
        for index, child in sets_of(llmd, observed).items()
    }
    return choose(present, wanted, surge, unavailable)


def wanted_groups(llmd: LLMDeployment, observed: Children) -> int:
    """With autoscaling what the HPA has written; a new resource begins with one."""
    if llmd.spec.autoscaling is None:
        return 1 if llmd.spec.replicas is None else llmd.spec.replicas
    scale = observed.get("GroupScale")
    return 1 if scale is None or scale.replicas is None else scale.replicas


def allowance(llmd: LLMDeployment, wanted: int) -> tuple[int, int]:
    """rollout.maxSurge rounded up and maxUnavailable rounded down, as Deployments do; never both 0."""
    rollout = llmd.spec.rollout
    surge, unavailable = part_of(rollout.max_surge, wanted, up=True), part_of(rollout.max_unavailable, wanted)
    return surge, unavailable if surge or unavailable else 1


def part_of(amount: int | str, whole: int, up: bool = False) -> int:
    text = str(amount)
    if not text.endswith("%"):
        return int(text)
    share = int(text[:-1]) * whole
    return -(-share // 100) if up else share // 100


def sets_of(llmd: LLMDeployment, observed: Children) -> dict[int, Child]:
    """The resource's own StatefulSets by the index of their group."""
    found = {}
    for child in observed.values():
        _, _, index = child.key[1].rpartition("-")
        if child.kind != "StatefulSet" or not child.is_of(llmd.metadata.uid) or not index.isdecimal():
            continue
        if child.key[1] == group_name(llmd.metadata.name, int(index)):
            found[int(index)] = child
    return found


def companions(pods: Iterable[Pod]) -> list[Pod]:
    """Pods of groups that another pod is leaving: they go with it, so that the leader drains in time.

    One that was made since then is a successor already: it waits for the others' successors.
    """
    found = [pod for pod in pods if GROUP_LABEL in pod.labels]
    broken: dict[str, datetime.datetime] = {}
    for pod in found:
        if pod.left is not None:
            group = pod.labels[GROUP_LABEL]
            broken[group] = max(pod.left, broken.get(group, pod.left))
    return [pod for pod in found if not pod.leaving and is_older(pod, broken.get(pod.labels[GROUP_LABEL]))]


def is_older(pod: Pod, moment: datetime.datetime | None) -> bool:
    """Times are whole seconds: one of the same second goes, its own successor will not."""
    return moment is not None and pod.made <= moment


def workload(llmd: LLMDeployment, observed: Children, template: str) -> Child | None:
    """What conditions count: the Deployment; or the number of groups, with their sum as its status."""
    if llmd.spec.group_size == 1:
        return observed.get("Deployment")
    scale = observed.get("GroupScale")
    if scale is None:
        return None
    groups = [child for child in sets_of(llmd, observed).values() if not child.leaving]
    ready = sum(child.ready for child in groups)
    status = DeploymentStatus(
        observed_generation=scale.generation,
        replicas=len(groups),
        updated_replicas=sum(child.template == template for child in groups),
        ready_replicas=ready,
        available_replicas=ready,
    )
    return msgspec.structs.replace(scale, status=status)
