"""What is desired and what is observed -> the few writes that are needed. Pure: nothing here acts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from octavo_operator.api import Autoscaling, LLMDeployment
from octavo_operator.causes import BLOCKED
from octavo_operator.compare import is_part
from octavo_operator.desired.meta import Manifest
from octavo_operator.names import FIELD_MANAGER, HASH_ANNOTATION, SCALE_MANAGER, Key
from octavo_operator.observed.child import Child, Children, slot


class Apply(msgspec.Struct, frozen=True):
    """Server-side apply of a manifest, forced; or its creation, where the name is free, if it `creates`."""

    manifest: Manifest
    manager: str = FIELD_MANAGER
    creates: bool = False
    repairs: bool = False  # the child was right once and was changed or deleted by somebody

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])


class Delete(msgspec.Struct, frozen=True):
    """Deletion of a child that is no longer wanted, and of no other object of that name."""

    kind: str
    key: Key
    uid: str
    awaits: bool = False  # it stays until its pods are gone


class Plan(msgspec.Struct, frozen=True):
    """The writes, `first` before the others, and what stands in their way.

    A name in `taken` belongs to somebody else, one in `awaited` to an object that is being deleted, or will
    be as soon as the garbage collector sees that its owner, a former resource of this name, is gone.
    """

    first: tuple[Apply, ...] = ()
    applies: tuple[Apply, ...] = ()
    deletes: tuple[Delete, ...] = ()
    taken: tuple[str, ...] = ()
    awaited: tuple[str, ...] = ()

    @property
    def writes(self) -> int:
        return len(self.first) + len(self.applies) + len(self.deletes)


def plan(
    llmd: LLMDeployment,
    desired: Sequence[Manifest],
    observed: Children,
    settled: frozenset[str],
    idle: bool = False,
    kept: frozenset[str] = frozenset(),
) -> Plan:
    """Compare each desired child with the observed one of its slot.

    `idle` says that the pods have had nothing to do for the resource's idleSeconds.

    `kept` are the slots of groups that stay as they are for now. `settled` are those whose last apply came
    back in another shape (rewritten by the API server or a webhook) and that nobody has changed since:
    applying them again would change nothing.
    """
    wanted = {slot_of(m, llmd.metadata.name): m for m in desired}
    uid = llmd.metadata.uid
    own = {at: child for at, child in observed.items() if child.is_of(uid) and not child.leaving}
    blocked = {at: child for at, child in observed.items() if at in wanted and at not in own}
    awaited = [at for at, c in blocked.items() if c.leaving or c.is_of_former(llmd.key, uid)]
    due = [at for at, m in wanted.items() if at not in blocked and is_due(m, own.get(at), at in settled)]
    counted = "Deployment" if llmd.spec.group_size == 1 else "GroupScale"
    gone = [c for at, c in own.items() if at not in wanted and at not in kept and c.owner_uid == uid]
    return Plan(
        first=tuple(scale(llmd, wanted.get(counted), own.get(counted), idle)),
        applies=tuple(write_of(llmd, wanted[at], own.get(at)) for at in due),
        deletes=tuple(Delete(c.kind, c.key, c.uid, awaits=c.kind == "StatefulSet") for c in gone),
        taken=tuple(at for at in blocked if at not in awaited),
        awaited=tuple(awaited),
    )


def slot_of(manifest: Manifest, resource: str) -> str:
    return slot(str(manifest["kind"]), str(manifest["metadata"]["name"]), resource)


def is_due(manifest: Manifest, child: Child | None, settled: bool) -> bool:
    """A child is right when its hash matches and what is desired is a part of it."""
    if child is None or child.hash != hash_of(manifest) or child.owner_uid is None:
        return True
    return not (settled or is_part(compared(manifest), child.compared()))


def write_of(llmd: LLMDeployment, manifest: Manifest, child: Child | None) -> Apply:
    return Apply(manifest, creates=child is None, repairs=is_repair(manifest, child, was_made(llmd)))


def was_made(llmd: LLMDeployment) -> bool:
    """True when the status says that all children of this very spec have been there."""
    ready = next((c for c in llmd.status.conditions if c.type == "Ready"), None)
    same_spec = llmd.status.observed_generation == llmd.metadata.generation
    return same_spec and (ready is None or ready.reason not in BLOCKED)


def is_repair(manifest: Manifest, child: Child | None, made_before: bool) -> bool:
    """True when the write undoes somebody's change; a changed spec is no repair, nor is a group made anew."""
    if child is None:
        return made_before and manifest["kind"] != "StatefulSet"
    return child.hash == hash_of(manifest)


def hash_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["annotations"][HASH_ANNOTATION])


def compared(manifest: Manifest) -> dict[str, Any]:
    """The parts of a manifest that Child.compared holds as well."""
    return {
        "metadata": {"labels": manifest["metadata"]["labels"]},
        "spec": manifest.get("spec"),
        "automountServiceAccountToken": manifest.get("automountServiceAccountToken"),
    }


def scale(llmd: LLMDeployment, manifest: Manifest | None, child: Child | None, idle: bool) -> list[Apply]:
    """The replicas that are written beside the HPA: where it takes over, and to zero and back.

    A field that its last manager lets go of falls back to its default: 3 replicas would become 1. So a second
    manager takes it before the HPA takes over from the spec.
    """
    autoscaling = llmd.spec.autoscaling
    if manifest is None or child is None or not autoscaling:
        return []
    replicas = child.replicas or 0
    wanted = scaled(autoscaling, replicas, wakes=llmd.status.wakes, idle=idle)
    if child.scaled_by == "hpa" and replicas == wanted:
        return []
    manifest = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {name: manifest["metadata"][name] for name in ("name", "namespace")},
        "spec": {"replicas": wanted},
    }
    return [Apply(manifest, SCALE_MANAGER)]


def scaled(autoscaling: Autoscaling, replicas: int, *, wakes: bool, idle: bool) -> int:
    """How many replicas there are to be, as far as the HPA has no say in it."""
    if replicas == 0:
        return autoscaling.min_replicas or int(wakes)
    return 0 if idle and autoscaling.min_replicas == 0 else replicas
