"""One resource brought to its spec: read, plan, act, write the status. What has happened does not matter."""

import asyncio
import datetime
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from octavo_operator.api import LLMDeployment, Status
from octavo_operator.causes import NAME_TAKEN, REFUSED, REPLACING, Cause
from octavo_operator.cluster import Cluster
from octavo_operator.compare import is_part
from octavo_operator.conditions import READY, Seen, ready_condition, status_of
from octavo_operator.desired.children import children, wanted_template
from octavo_operator.desired.meta import Defaults
from octavo_operator.downloads import Downloads
from octavo_operator.errors import AlreadyExistsError, ApiError, NotFoundError, RefusedError
from octavo_operator.events import Recorder, Type
from octavo_operator.groups import chosen, companions, workload
from octavo_operator.image_volumes import lost_volume
from octavo_operator.names import FIELD_MANAGER, Key, group_name
from octavo_operator.observed.child import Child, slot
from octavo_operator.plan import Apply, Delete, Plan, compared, plan
from octavo_operator.store import Store
from octavo_operator.telemetry import Telemetry

log = logging.getLogger(__name__)

_QUIET = frozenset({"Loading", "Downloading", "RollingOut", "ScaledToZero"})
"""Reasons that are no news to a person who watches the status."""


class Reconciler:
    """Works on one resource at a time; WorkQueue sees to it that no two workers have the same."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        defaults: Defaults,
        telemetry: Telemetry,
        now: Callable[[], datetime.datetime],
        downloads: Downloads | None = None,
        is_idle: Callable[[LLMDeployment], bool] = lambda llmd: False,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._defaults = defaults
        self._telemetry = telemetry
        self._now = now
        self._downloads = downloads or Downloads()
        self._is_idle = is_idle
        self._recorder = Recorder(cluster, now)
        self._settled: dict[
            tuple[str, Key], tuple[str, int]
        ] = {}  # hash and generation of answers in another shape

    async def reconcile(self, key: Key) -> bool:
        """Return False when the key is to come back later."""
        with self._telemetry.reconcile_seconds.time():
            try:
                done = await self._reconcile(key)
            except ApiError as error:
                log.warning("%s/%s: %s", *key, error)
                done = False
            except Exception:
                log.exception("%s/%s: this is a defect of the operator", *key)
                done = False
        self._telemetry.reconciles.labels("done" if done else "retry").inc()
        return done

    async def _reconcile(self, key: Key) -> bool:
        llmd = self._store.get(key)
        if llmd is None or llmd.metadata.deletion_timestamp:
            self._forget(key)  # the garbage collector removes the children
            return True
        observed = self._cluster.children(key)
        template = wanted_template(llmd, self._defaults)
        choice = chosen(llmd, observed, template)
        desired = children(llmd, self._defaults, choice.made)
        if len(observed) < len(desired) and not await self._still_there(llmd):
            return True
        settled = self._settled_slots(observed.values())
        kept = frozenset(slot("StatefulSet", group_name(key[1], index), key[1]) for index in choice.kept)
        todo = plan(llmd, desired, observed, settled, self._is_idle(llmd), kept)
        with_them = tuple(
            Delete("Pod", (pod.namespace, pod.name), pod.uid) for pod in companions(self._cluster.pods(key))
        )
        todo = msgspec.structs.replace(todo, deletes=todo.deletes + with_them)
        blockers = await self._act(llmd, todo)
        made = self._cluster.children(key).values()
        blockers += lost_volume(llmd, self._defaults.image_volumes, template, made)
        await self._report(llmd, template, blockers, rescaled=bool(todo.first))
        rescaled_groups = todo.first and llmd.spec.group_size > 1  # their StatefulSets follow
        return not blockers and not rescaled_groups

    async def _still_there(self, llmd: LLMDeployment) -> bool:
        """A child that has vanished may be the first sign of its owner's deletion."""
        if llmd.status.observed_generation < 1:
            return True
        found = await self._cluster.resource(llmd.key)
        if found is None or found.metadata.deletion_timestamp:
            self._store.remove(llmd)
            return False
        if found.metadata.uid != llmd.metadata.uid:
            self._store.put(found)  # made anew: it is worked on next
            return False
        return True

    async def _act(self, llmd: LLMDeployment, todo: Plan) -> list[Cause]:
        """Carry the plan out; return what stands in its way."""
        for write in todo.first:
            await self._cluster.apply(write)
        results = await asyncio.gather(
            *(self._apply(write) for write in todo.applies),
            *(self._cluster.delete(write) for write in todo.deletes),
            return_exceptions=True,
        )
        outcomes = list(zip(todo.applies, results, strict=False))
        deletions = zip(todo.deletes, results[len(todo.applies) :], strict=True)
        await self._tell_repairs(llmd, [write for write, error in outcomes if error is None])
        blockers = [_taken(kind) for kind in todo.taken] + [_awaited(kind) for kind in todo.awaited]
        for write, error in outcomes:
            if isinstance(error, RefusedError):
                blockers.append(_refusal(write, error))
            elif isinstance(error, AlreadyExistsError):
                blockers += await self._make_way(llmd, write)
        blockers += [_kept(write, error) for write, error in deletions if isinstance(error, RefusedError)]
        foreseen = (RefusedError, AlreadyExistsError)
        unexpected = [r for r in results if isinstance(r, Exception) and not isinstance(r, foreseen)]
        if unexpected:
            raise unexpected[0]
        return blockers

    async def _make_way(self, llmd: LLMDeployment, write: Apply) -> list[Cause]:
        """What has the name of a child that was to be created; our own that lost its label is taken back."""
        name = str(write.manifest["metadata"]["name"])
        found = await self._cluster.look_up(write.kind, (llmd.key[0], name))
        if found is None or found.leaving or found.is_of_former(llmd.key, llmd.metadata.uid):
            return [_awaited(write.kind)]
        if not found.is_of(llmd.metadata.uid):
            return [_taken(write.kind)]
        try:
            await self._apply(msgspec.structs.replace(write, creates=False, repairs=True))
        except RefusedError as error:
            return [_refusal(write, error)]
        return []

    async def _apply(self, write: Apply) -> None:
        child = await self._cluster.apply(write)
        if write.manager == FIELD_MANAGER:
            if is_part(compared(write.manifest), child.compared()):
                self._settled.pop((child.kind, child.key), None)
            else:
                self._settled[child.kind, child.key] = (child.hash, child.generation)

    def _settled_slots(self, observed: Iterable[Child]) -> frozenset[str]:
        """Kinds without a generation (Service, ServiceAccount) settle for good, until their spec changes."""
        return frozenset(
            c.slot for c in observed if self._settled.get((c.kind, c.key)) == (c.hash, c.generation)
        )

    async def _report(
        self,
        llmd: LLMDeployment,
        template: str,
        blockers: Sequence[Cause],
        rescaled: bool,
    ) -> None:
        """Write the status if it differs, and tell what is news."""
        pods = self._cluster.pods(llmd.key)
        seen = Seen(
            deployment=workload(llmd, self._cluster.children(llmd.key), template),
            pods=pods,
            template=template,
            blockers=blockers,
            downloads=self._downloads.of(pods, llmd.status.download),
            sleeps=llmd.spec.autoscaling is not None,
            rescaled=rescaled,
        )
        status = status_of(llmd, seen, self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        if status == llmd.status:
            return
        try:
            self._store.put(await self._cluster.patch_status(llmd, status))
        except NotFoundError:  # deleted meanwhile
            return
        await self._tell_reason(llmd, status)

    async def _tell_reason(self, llmd: LLMDeployment, status: Status) -> None:
        present, former = ready_condition(status.conditions), ready_condition(llmd.status.conditions)
        if present is None or present.reason in _QUIET or (former and former.reason == present.reason):
            return
        kind: Type = "Normal" if present.reason == READY else "Warning"
        await self._tell(llmd, kind, present.reason, present.message)

    async def _tell_repairs(self, llmd: LLMDeployment, applies: Iterable[Apply]) -> None:
        for write in (write for write in applies if write.repairs):
            name = write.manifest["metadata"]["name"]
            await self._tell(
                llmd,
                "Warning",
                "Repaired",
                f"{write.kind} {name} was changed or deleted by somebody else and has been put right",
            )

    async def _tell(self, llmd: LLMDeployment, kind: Type, reason: str, message: str) -> None:
        try:
            await self._recorder.tell(llmd, kind, reason, message)
        except ApiError as error:  # the status says it too
            log.warning("%s/%s: event %s not recorded: %s", *llmd.key, reason, error)

    def _forget(self, key: Key) -> None:
        for settled in [s for s in self._settled if s[1][0] == key[0] and _is_of(s[1][1], key[1])]:
            del self._settled[settled]


def _is_of(child: str, resource: str) -> bool:
    """Of another resource's child, whose name begins likewise, no more is lost than one needless write."""
    return child == resource or child.startswith(f"{resource}-")


def _taken(kind: str) -> Cause:
    text = f"a {kind} of this name exists and is not owned by this resource: delete or rename it"
    return Cause(NAME_TAKEN, text, final=True)


def _awaited(kind: str) -> Cause:
    return Cause(REPLACING, f"the former {kind} of this name is being replaced")


def _refusal(write: Apply, error: RefusedError) -> Cause:
    return Cause(REFUSED, f"{write.kind} was refused: {error}", final=True)


def _kept(write: Delete, error: RefusedError) -> Cause:
    text = f"the deletion of {write.kind} {write.key[1]}, which is no longer wanted, was refused: {error}"
    return Cause(REFUSED, text, final=True)
