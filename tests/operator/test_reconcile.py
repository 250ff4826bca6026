import datetime
from typing import Any

import msgspec
import pytest

from octavo_operator.api import LLMDeployment, Status
from octavo_operator.conditions import ready_condition
from octavo_operator.desired.meta import Defaults
from octavo_operator.errors import RefusedError, UnreachableError
from octavo_operator.fake import FakeCluster
from octavo_operator.names import Key
from octavo_operator.reconcile import Reconciler
from octavo_operator.store import Store
from octavo_operator.telemetry import Telemetry

KEY = ("default", "smollm2")


class World:
    """A reconciler with a cluster in memory."""

    def __init__(self, defaults: Defaults) -> None:
        self.cluster = FakeCluster()
        self.woken: list[Key] = []
        self.store = Store(self.woken.append)
        clock = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self.reconciler = Reconciler(self.cluster, self.store, defaults, Telemetry(), lambda: clock)

    def hear(self, llmd: LLMDeployment) -> None:
        """Of a resource; its version is that of the event."""
        former = self.cluster.resources.get(KEY)
        version = str(former.version + 1 if former else 1)
        meta = msgspec.structs.replace(llmd.metadata, resource_version=version)
        llmd = msgspec.structs.replace(llmd, metadata=meta)
        self.cluster.resources[KEY] = llmd
        self.store.put(llmd)

    async def reconcile(self) -> bool:
        return await self.reconciler.reconcile(KEY)

    @property
    def reason(self) -> str:
        found = self.store.get(KEY)
        ready = ready_condition(found.status.conditions) if found else None
        return ready.reason if ready else ""


@pytest.fixture
def world(defaults: Defaults) -> World:
    return World(defaults)


async def test_a_new_resource_takes_one_write_a_child_and_one_status(world: World, make: Any) -> None:
    world.hear(make())
    assert await world.reconcile()
    assert len(world.cluster.writes) == 5
    assert world.cluster.writes[-1] == "status"


async def test_a_second_look_writes_nothing(world: World, make: Any) -> None:
    world.hear(make(autoscaling={"maxReplicas": 3, "queueDepth": 2}))
    await world.reconcile()
    world.cluster.writes.clear()
    assert await world.reconcile()
    assert world.cluster.writes == []


async def test_an_edit_is_undone_and_told(world: World, make: Any) -> None:
    world.hear(make())
    await world.reconcile()
    world.cluster.writes.clear()
    world.cluster.objects["Deployment", KEY]["spec"]["replicas"] = 9
    await world.reconcile()
    assert world.cluster.writes == ["apply Deployment as octavo-operator"]
    assert world.cluster.objects["Deployment", KEY]["spec"]["replicas"] == 1
    assert [e["reason"] for e in world.cluster.events] == ["Repaired"]


async def test_a_resource_that_is_gone_gets_no_children_back(world: World, make: Any) -> None:
    world.hear(make())
    await world.reconcile()
    world.cluster.writes.clear()
    world.cluster.objects.clear()
    world.cluster.resources.clear()
    assert await world.reconcile()
    assert world.cluster.writes == []
    assert world.store.get(KEY) is None


def made_anew(llmd: LLMDeployment, version: int) -> LLMDeployment:
    meta = msgspec.structs.replace(llmd.metadata, uid="u2", resource_version=str(version))
    return msgspec.structs.replace(llmd, metadata=meta)


async def test_the_late_answer_to_a_status_does_not_hide_the_resource_made_anew(
    world: World, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hear(make())
    written = world.cluster.patch_status

    async def answers_late(llmd: LLMDeployment, status: Status) -> LLMDeployment:
        answer = await written(llmd, status)
        world.store.remove(llmd)
        world.store.put(made_anew(llmd, answer.version + 2))
        return answer

    monkeypatch.setattr(world.cluster, "patch_status", answers_late)
    await world.reconcile()
    found = world.store.get(KEY)
    assert found is not None
    assert found.metadata.uid == "u2"


async def test_a_resource_that_was_made_anew_unheard_is_worked_on(world: World, make: Any) -> None:
    world.hear(make(status={"observedGeneration": 1}))
    present = made_anew(make(), 5)
    world.cluster.resources[KEY] = present
    assert await world.reconcile()
    assert world.cluster.writes == []
    assert world.store.get(KEY) == present
    assert world.woken == [KEY, KEY]


async def test_somebody_elses_service_is_left_alone(world: World, make: Any) -> None:
    meta = {"name": "smollm2", "namespace": "default"}
    world.cluster.put({"kind": "Service", "metadata": meta, "spec": {"type": "ExternalName"}})
    world.hear(make())
    assert not await world.reconcile()
    assert world.reason == "NameTaken"
    assert world.cluster.objects["Service", KEY]["spec"] == {"type": "ExternalName"}
    assert "Deployment" in {kind for kind, _ in world.cluster.objects}


async def test_a_former_resources_child_without_its_label_is_awaited(world: World, make: Any) -> None:
    owner = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "name": "smollm2", "uid": "u0"}
    meta = {"name": "smollm2", "namespace": "default", "ownerReferences": [{**owner, "controller": True}]}
    world.cluster.put({"kind": "Service", "metadata": meta, "spec": {}})
    world.hear(make())
    assert not await world.reconcile()
    assert world.reason == "Replacing"
    world.cluster.objects.pop(("Service", KEY))
    assert await world.reconcile()
    assert world.reason == "Loading"


async def test_what_the_api_server_refuses_is_told_once_and_tried_again(world: World, make: Any) -> None:
    world.cluster.failures["Deployment"] = RefusedError(422, "Invalid", "spec.template: bad")
    world.hear(make())
    assert not await world.reconcile()
    assert not await world.reconcile()
    assert world.reason == "ChildRefused"
    assert world.cluster.writes.count("status") == 1
    [event] = world.cluster.events
    assert (event["type"], event["message"]) == ("Warning", "Deployment was refused: spec.template: bad")
    world.cluster.failures.clear()
    assert await world.reconcile()
    assert world.reason == "Loading"


async def test_a_deletion_that_is_refused_is_told_and_tried_again(world: World, make: Any) -> None:
    world.hear(make(autoscaling={"maxReplicas": 4, "queueDepth": 4}))
    assert await world.reconcile()
    world.hear(make(replicas=1))
    kind = "HorizontalPodAutoscaler"
    world.cluster.kept[kind] = RefusedError(403, "Forbidden", "a policy keeps it")
    assert not await world.reconcile()
    assert world.reason == "ChildRefused"
    assert world.cluster.events[-1]["message"] == (
        f"the deletion of {kind} smollm2, which is no longer wanted, was refused: a policy keeps it"
    )
    world.cluster.kept.clear()
    assert await world.reconcile()
    assert (kind, KEY) not in world.cluster.objects


async def test_an_unreachable_api_server_changes_no_status(world: World, make: Any) -> None:
    world.cluster.failures["Deployment"] = UnreachableError(0, "NoAnswer", "no answer")
    world.hear(make())
    assert not await world.reconcile()
    assert "status" not in world.cluster.writes


async def test_an_answer_in_another_shape_is_not_fought(world: World, make: Any) -> None:
    """A webhook that rewrites the image would otherwise be written against for ever."""

    class Mirrored(FakeCluster):
        def put(self, manifest: Any) -> None:
            super().put(manifest)
            if manifest["kind"] == "Deployment":
                spec = self.objects["Deployment", KEY]["spec"]["template"]["spec"]
                spec["containers"][0]["image"] = "mirror/" + spec["containers"][0]["image"]

    cluster = Mirrored()
    clock = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    reconciler = Reconciler(cluster, world.store, Defaults(engine_image="e"), Telemetry(), lambda: clock)
    world.hear(make())
    await reconciler.reconcile(KEY)
    cluster.writes.clear()
    await reconciler.reconcile(KEY)
    assert cluster.writes == []


async def test_a_resource_in_deletion_is_left_to_the_garbage_collector(world: World, make: Any) -> None:
    llmd = make()
    meta = msgspec.structs.replace(llmd.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    world.hear(msgspec.structs.replace(llmd, metadata=meta))
    assert await world.reconcile()
    assert world.cluster.writes == []
