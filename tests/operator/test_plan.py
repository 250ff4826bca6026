import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.api import parse
from octavo_operator.desired.children import children
from octavo_operator.desired.meta import Defaults, Manifest
from octavo_operator.names import FIELD_MANAGER, SCALE_MANAGER
from octavo_operator.observed.child import Child, decode_child
from octavo_operator.plan import Plan, plan

KINDS = ["Deployment", "Service", "PodDisruptionBudget", "ServiceAccount"]
AUTOSCALED = {"autoscaling": {"minReplicas": 2, "maxReplicas": 4, "queueDepth": 4}}


def stored(manifest: Manifest, **metadata: Any) -> Child:
    body = copy.deepcopy(manifest)
    body["metadata"] |= {
        "uid": f"uid-{manifest['kind']}",
        "resourceVersion": "7",
        "generation": 1,
        **metadata,
    }
    return decode_child(manifest["kind"], msgspec.json.encode(body))


def planned(
    llmd: Any, defaults: Defaults, observed: dict[str, Child], settled: frozenset[str] = frozenset()
) -> Plan:
    return plan(llmd, children(llmd, defaults), observed, settled)


def all_right(llmd: Any, defaults: Defaults) -> dict[str, Child]:
    return {m["kind"]: stored(m) for m in children(llmd, defaults)}


def test_all_children_of_a_new_resource_are_applied(make: Any, defaults: Defaults) -> None:
    found = planned(make(), defaults, {})
    assert [w.kind for w in found.applies] == KINDS
    assert not any(w.repairs for w in found.applies)


def test_nothing_is_written_when_all_is_right(make: Any, defaults: Defaults) -> None:
    llmd = make()
    assert planned(llmd, defaults, all_right(llmd, defaults)).writes == 0


def test_only_the_edited_child_is_put_right(make: Any, defaults: Defaults) -> None:
    llmd = make()
    observed = all_right(llmd, defaults)
    service = next(m for m in children(llmd, defaults) if m["kind"] == "Service")
    edited = copy.deepcopy(service)
    edited["spec"]["selector"] = {"octavo.dev/deployment": "another"}
    found = planned(llmd, defaults, {**observed, "Service": stored(edited)})
    assert [(w.kind, w.repairs) for w in found.applies] == [("Service", True)]


def test_a_deleted_child_comes_back_as_a_repair(make: Any, defaults: Defaults) -> None:
    llmd = make(status={"observedGeneration": 1})
    observed = all_right(llmd, defaults)
    del observed["Service"]
    assert [(w.kind, w.repairs) for w in planned(llmd, defaults, observed).applies] == [("Service", True)]


def test_a_changed_spec_writes_what_it_changes_and_is_no_repair(make: Any, defaults: Defaults) -> None:
    observed = all_right(make(), defaults)
    found = planned(make(replicas=2), defaults, observed)
    assert [(w.kind, w.repairs, w.manager) for w in found.applies] == [("Deployment", False, FIELD_MANAGER)]


def test_a_child_that_settled_in_another_shape_is_left(make: Any, defaults: Defaults) -> None:
    llmd = make()
    observed = all_right(llmd, defaults)
    deployment = copy.deepcopy(children(llmd, defaults)[0])
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "mirror/octavo-engine:1"
    observed["Deployment"] = stored(deployment)
    assert planned(llmd, defaults, observed, frozenset({"Deployment"})).writes == 0
    assert planned(llmd, defaults, observed).writes == 1


def test_a_name_owned_by_somebody_else_is_not_taken_over(make: Any, defaults: Defaults) -> None:
    llmd = make()
    foreign = Child(kind="Service", key=llmd.key, uid="x", version=1, owner_uid="u9", labelled=False)
    found = planned(llmd, defaults, {**all_right(llmd, defaults), "Service": foreign})
    assert (found.writes, found.taken, found.awaited) == (0, ("Service",), ())


def test_a_former_child_that_is_being_deleted_is_awaited(make: Any, defaults: Defaults) -> None:
    llmd = make()
    observed = all_right(llmd, defaults)
    observed["Service"] = msgspec.structs.replace(observed["Service"], leaving=True)
    found = planned(llmd, defaults, observed)
    assert (found.writes, found.taken, found.awaited) == (0, (), ("Service",))


def test_a_child_of_a_former_resource_of_this_name_is_awaited(make: Any, defaults: Defaults) -> None:
    """The garbage collector needs a moment to see that its owner is gone."""
    llmd = make()
    [reference] = children(llmd, defaults)[0]["metadata"]["ownerReferences"]

    def blocked(**changes: str) -> tuple[Any, ...]:
        owner = {**reference, "uid": "u0", **changes}
        observed = {m["kind"]: stored(m, ownerReferences=[owner]) for m in children(llmd, defaults)}
        found = planned(llmd, defaults, observed)
        assert found.writes == 0
        return found.taken, found.awaited

    assert blocked() == ((), tuple(KINDS))
    assert blocked(name="another") == (tuple(KINDS), ())
    assert blocked(kind="Deployment", apiVersion="apps/v1") == (tuple(KINDS), ())


def test_the_owners_name_is_no_second_string(make: Any, defaults: Defaults) -> None:
    child = all_right(make(), defaults)["Service"]
    assert child.owner_name is child.resource


def test_an_orphan_of_a_former_resource_is_adopted(make: Any, defaults: Defaults) -> None:
    llmd = make()
    observed = all_right(llmd, defaults)
    observed["Deployment"] = msgspec.structs.replace(observed["Deployment"], owner_uid=None)
    assert [w.kind for w in planned(llmd, defaults, observed).applies] == ["Deployment"]


def test_the_hpa_goes_when_autoscaling_does(make: Any, defaults: Defaults) -> None:
    observed = all_right(make(**AUTOSCALED), defaults)
    found = planned(make(replicas=1), defaults, observed)
    assert [d.kind for d in found.deletes] == ["HorizontalPodAutoscaler"]
    assert [w.kind for w in found.applies] == ["Deployment"]


def test_replicas_are_handed_over_when_the_hpa_comes(make: Any, defaults: Defaults) -> None:
    observed = all_right(make(replicas=3), defaults)
    found = planned(make(**AUTOSCALED), defaults, observed)
    [first] = found.first
    assert (first.manager, first.manifest["spec"]) == (SCALE_MANAGER, {"replicas": 3})
    assert [w.kind for w in found.applies] == ["Deployment", "HorizontalPodAutoscaler"]


def test_a_sleeping_deployment_is_woken_for_the_hpa(make: Any, defaults: Defaults) -> None:
    llmd = make(**AUTOSCALED)
    observed = all_right(llmd, defaults)
    observed["Deployment"] = msgspec.structs.replace(observed["Deployment"], replicas=0)
    [first] = planned(llmd, defaults, observed).first
    assert first.manifest["spec"] == {"replicas": 2}


SLEEPS = {"autoscaling": {"minReplicas": 0, "maxReplicas": 4, "queueDepth": 4}}


@pytest.mark.parametrize(
    ("replicas", "idle", "requested", "handled", "written"),
    [
        pytest.param(3, True, "", "", 0, id="idle pods are stopped"),
        pytest.param(3, False, "", "", None, id="the number of working pods is the HPA's"),
        pytest.param(3, False, "b", "a", None, id="a call for pods that are there changes nothing"),
        pytest.param(0, True, "a", "a", None, id="what sleeps goes on sleeping"),
        pytest.param(0, False, "b", "a", 1, id="a new call wakes one pod"),
        pytest.param(0, True, "b", "a", 1, id="a new call counts more than idleness"),
    ],
)
def test_to_zero_and_back(
    make: Any,
    defaults: Defaults,
    replicas: int,
    idle: bool,
    requested: str,
    handled: str,
    written: int | None,
) -> None:
    llmd = make(status={"wakeRequested": requested, "wakeHandled": handled}, **SLEEPS)
    observed = all_right(llmd, defaults)
    observed["Deployment"] = msgspec.structs.replace(observed["Deployment"], replicas=replicas)
    found = plan(llmd, children(llmd, defaults), observed, frozenset(), idle)
    assert [w.manifest["spec"] for w in found.first] == ([] if written is None else [{"replicas": written}])
    assert found.writes == len(found.first)


def test_only_what_may_sleep_is_stopped_when_idle(make: Any, defaults: Defaults) -> None:
    llmd = make(**AUTOSCALED)
    observed = all_right(llmd, defaults)
    observed["Deployment"] = msgspec.structs.replace(observed["Deployment"], replicas=2)
    assert plan(llmd, children(llmd, defaults), observed, frozenset(), True).writes == 0


def test_the_hpas_choice_is_no_drift(make: Any, defaults: Defaults) -> None:
    llmd = make(**AUTOSCALED)
    chosen = copy.deepcopy(children(llmd, defaults)[0])
    chosen["spec"]["replicas"] = 4
    assert planned(llmd, defaults, {**all_right(llmd, defaults), "Deployment": stored(chosen)}).writes == 0


SPECS = st.fixed_dictionaries(
    {"model": st.sampled_from([{"source": "package://a"}, {"source": "pvc://c/d"}, {"source": "file:///m"}])},
    optional={
        "replicas": st.integers(0, 5),
        "drainSeconds": st.integers(0, 100),
        "aliases": st.lists(st.sampled_from("abc"), unique=True),
        "resources": st.fixed_dictionaries(
            {"cpu": st.sampled_from([1, "1000m", "2"]), "gpu": st.integers(0, 2)}
        ),
        "engine": st.fixed_dictionaries(
            {"maxNumSeqs": st.integers(1, 9), "enablePrefixCaching": st.booleans()}
        ),
    },
)


@given(SPECS, SPECS, st.sets(st.sampled_from(KINDS)))
def test_carrying_a_plan_out_leaves_nothing_to_do(one: Any, other: Any, lost: set[str]) -> None:
    defaults = Defaults(engine_image="e")
    former, present = (
        parse({"metadata": {"name": "n", "namespace": "d", "uid": "u"}, "spec": s}) for s in (one, other)
    )
    observed = {kind: c for kind, c in all_right(former, defaults).items() if kind not in lost}
    found = planned(present, defaults, observed)
    observed |= {write.kind: stored(write.manifest) for write in found.applies}
    assert planned(present, defaults, observed).writes == 0
    assert lost <= {write.kind for write in found.applies}
