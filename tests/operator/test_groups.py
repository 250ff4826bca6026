"""Which groups there are to be, and what they amount to."""

import copy
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.causes import worst_member
from octavo_operator.conditions import Seen, status_of
from octavo_operator.desired.children import children, wanted_template
from octavo_operator.desired.meta import Defaults, Manifest
from octavo_operator.groups import Choice, Group, choose, chosen, companions, part_of, wanted_groups, workload
from octavo_operator.observed.child import Child, decode_child
from octavo_operator.observed.pod import Pod, PodStatus, decode_pod
from octavo_operator.plan import plan

PAIR = {"parallelism": {"tensor": 2, "pods": 2}}
NEW, OLD = Group(current=True, ready=True), Group(current=False, ready=True)
STARTING, BROKEN = Group(current=True, ready=False), Group(current=False, ready=False)
LEAVING = Group(current=False, ready=False, leaving=True)


@pytest.mark.parametrize(
    ("present", "wanted", "surge", "unavailable", "made", "kept"),
    [
        pytest.param([], 2, 1, 0, [0, 1], [], id="a new resource"),
        pytest.param([NEW, NEW, NEW], 1, 1, 0, [0], [], id="fewer groups: the last go"),
        pytest.param([NEW], 0, 1, 0, [], [], id="none"),
        pytest.param([OLD], 1, 1, 0, [1], [0], id="a new spec: first one group more"),
        pytest.param([OLD, STARTING], 1, 1, 0, [1], [0], id="the old one stays until the new one is ready"),
        pytest.param([OLD, NEW], 1, 1, 0, [1], [], id="then it goes"),
        pytest.param([LEAVING, NEW], 1, 1, 0, [1], [], id="the surge group serves while the old one ends"),
        pytest.param([STARTING, NEW], 1, 1, 0, [0, 1], [], id="and while its successor starts"),
        pytest.param([NEW, NEW], 1, 1, 0, [0], [], id="and goes last"),
        pytest.param([OLD], 1, 0, 1, [], [], id="without a surge the old one goes at once"),
        pytest.param([OLD, OLD], 2, 0, 1, [], [0], id="one after the other"),
        pytest.param([BROKEN, OLD], 2, 0, 1, [], [1], id="a group that does not answer costs nothing"),
        pytest.param([LEAVING, OLD], 2, 0, 1, [], [1], id="a group that ends counts as away"),
    ],
)
def test_choice(
    present: Sequence[Group],
    wanted: int,
    surge: int,
    unavailable: int,
    made: list[int],
    kept: list[int],
) -> None:
    found = choose(dict(enumerate(present)), wanted, surge, unavailable)
    assert found == Choice(tuple(made), tuple(kept))


groups = st.builds(Group, current=st.booleans(), ready=st.booleans(), leaving=st.booleans())
fleets = st.dictionaries(st.integers(0, 6), groups, max_size=7)
allowances = st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(any)


@given(fleets, st.integers(0, 5), allowances)
def test_never_more_groups_than_wanted_and_surge(
    present: dict[int, Group], wanted: int, allowance: tuple[int, int]
) -> None:
    found = choose(present, wanted, *allowance)
    assert not set(found.made) & set(found.kept)
    assert len(found.made) + len(found.kept) <= wanted + allowance[0]
    assert all(not present[i].leaving for i in (*found.made, *found.kept) if i in present)


@given(st.dictionaries(st.integers(0, 4), st.just(OLD), min_size=5), allowances)
def test_a_rollout_ends_and_never_has_too_few_that_answer(
    present: dict[int, Group], allowance: tuple[int, int]
) -> None:
    """Groups end and start as they may; all five are of the new spec after some rounds."""
    surge, unavailable = allowance
    for _ in range(40):
        found = choose(present, 5, surge, unavailable)
        stay = {i: present[i] for i in (*found.made, *found.kept) if i in present}
        assert (
            sum(group.ready for group in stay.values()) >= min(5 - unavailable, 5 - len(found.kept)) - surge
        )
        present = stay | dict.fromkeys(set(found.made) - stay.keys(), STARTING)
        assert sum(group.ready for group in present.values()) >= 5 - unavailable
        present = {i: NEW if group == STARTING else group for i, group in present.items()}
    assert present == dict.fromkeys(range(5), NEW)


@pytest.mark.parametrize(("amount", "up", "part"), [(2, False, 2), ("25%", True, 2), ("25%", False, 1)])
def test_a_share_of_the_groups(amount: int | str, up: bool, part: int) -> None:
    assert part_of(amount, 5, up) == part


def stored(manifest: Manifest, **status: Any) -> Child:
    body = copy.deepcopy(manifest) | {"status": {"observedGeneration": 1, **status}}
    body["metadata"] |= {"uid": f"uid-{manifest['kind']}", "resourceVersion": "7", "generation": 1}
    return decode_child(manifest["kind"], msgspec.json.encode(body))


def observed(llmd: Any, defaults: Defaults, groups: Sequence[int], ready: int = 2) -> dict[str, Child]:
    found = [stored(m, readyReplicas=ready) for m in children(llmd, defaults, groups)]
    return {child.slot: child for child in found}


def test_nothing_is_written_when_all_is_right(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR, replicas=2)
    there = observed(llmd, defaults, (0, 1))
    choice = chosen(llmd, there, wanted_template(llmd, defaults))
    assert choice == Choice((0, 1))
    assert plan(llmd, children(llmd, defaults, choice.made), there, frozenset()).writes == 0


def test_a_group_that_is_to_go_stays_until_its_pods_are_gone(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR)
    todo = plan(llmd, children(llmd, defaults, (0,)), observed(llmd, defaults, (0, 1)), frozenset())
    assert [(d.kind, d.key[1], d.awaits) for d in todo.deletes] == [("StatefulSet", "smollm2-1", True)]


def test_an_old_group_that_stays_is_left_alone(make: Any, defaults: Defaults) -> None:
    old, llmd = make(**PAIR), make(**PAIR, drainSeconds=7)
    there = observed(old, defaults, (0,))
    choice = chosen(llmd, there, wanted_template(llmd, defaults))
    assert choice == Choice((1,), (0,))
    kept = frozenset({"StatefulSet smollm2-0"})
    todo = plan(llmd, children(llmd, defaults, choice.made), there, frozenset(), kept=kept)
    assert [w.manifest["metadata"]["name"] for w in todo.applies] == ["smollm2-1"]
    assert todo.deletes == ()


def test_a_single_pod_becomes_a_group_and_back(make: Any, defaults: Defaults) -> None:
    single, group = make(), make(**PAIR)
    todo = plan(group, children(group, defaults), observed(single, defaults, ()), frozenset())
    assert [d.kind for d in todo.deletes] == ["Deployment"]
    todo = plan(single, children(single, defaults), observed(group, defaults, (0,)), frozenset())
    assert sorted(d.key[1] for d in todo.deletes) == ["smollm2", "smollm2-0", "smollm2-members"]


def test_the_hpas_number_counts(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR, autoscaling={"maxReplicas": 5})
    assert wanted_groups(llmd, {}) == 1
    scale = msgspec.structs.replace(observed(llmd, defaults, ())["GroupScale"], replicas=3)
    assert wanted_groups(llmd, {"GroupScale": scale}) == 3


def told(llmd: Any, defaults: Defaults, there: dict[str, Child], pods: Sequence[Pod] = ()) -> Any:
    template = wanted_template(llmd, defaults)
    seen = Seen(deployment=workload(llmd, there, template), pods=pods, template=template)
    return status_of(llmd, seen, "2026-01-01T00:00:00Z")


def member(name: str, template: str, status: dict[str, Any]) -> Pod:
    found = msgspec.convert(status, PodStatus)
    return Pod(name=name, namespace="default", deployment="smollm2", template=template, status=found)


def test_the_status_counts_groups(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR, replicas=2)
    status = told(llmd, defaults, observed(llmd, defaults, (0, 1)))
    assert (status.ready, status.replicas, status.pods_per_replica) == ("2/2", 2, 2)
    assert status.conditions[0].message == "all 2 groups answer"


def test_a_group_is_ready_as_one(make: Any, defaults: Defaults) -> None:
    llmd = make(**PAIR)
    pods = [
        member("smollm2-0-0", wanted_template(llmd, defaults), {"conditions": []}),
        member(
            "smollm2-0-1",
            wanted_template(llmd, defaults),
            {"conditions": [{"type": "Ready", "status": "True"}]},
        ),
    ]
    status = told(llmd, defaults, observed(llmd, defaults, (0,), ready=1), pods)
    assert (status.ready, status.conditions[0].reason) == ("0/1", "Loading")
    assert status.conditions[0].message.endswith("not ready are smollm2-0-0")


def test_the_member_without_a_node_is_named_before_the_leader_that_misses_it(
    make: Any, defaults: Defaults
) -> None:
    llmd = make(**PAIR)
    short = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    crashed = {"terminated": {"exitCode": 1, "message": "rank 1 is missing"}}
    leader = {"containerStatuses": [{"name": "engine", "lastState": crashed}]}
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": short}
    pods = [
        member("smollm2-0-0", wanted_template(llmd, defaults), leader),
        member("smollm2-0-1", wanted_template(llmd, defaults), {"conditions": [unplaced]}),
    ]
    status = told(llmd, defaults, observed(llmd, defaults, (0,), ready=0), pods)
    assert status.conditions[0].reason == "Unschedulable"
    assert status.conditions[0].message == f"pod smollm2-0-1 cannot be scheduled: {short}"


def test_a_wrong_setting_of_any_member_is_final(make: Any, defaults: Defaults) -> None:
    refused = {"terminated": {"exitCode": 2, "message": "--max-model-len is too large"}}
    pods = [
        member("a", "t", {"conditions": [{"type": "PodScheduled", "status": "False", "message": "x"}]}),
        member("b", "t", {"containerStatuses": [{"name": "engine", "lastState": refused}]}),
    ]
    cause = worst_member(pods)
    assert cause is not None and cause.final and cause.message == "--max-model-len is too large"


def engine_pod(name: str, made: int, left: int | None = None, grace: int = 30) -> Pod:
    """`made` and `left` in seconds of the same minute."""
    stamp = "2026-11-28T14:{:02d}:{:02d}Z"
    meta: dict[str, Any] = {
        "name": name,
        "labels": {"octavo.dev/group": name[:-2]} if "-" in name else {},
        "creationTimestamp": stamp.format(1, made),
    }
    if left is not None:
        meta["deletionTimestamp"] = stamp.format(*divmod(60 + left + grace, 60))
        meta["deletionGracePeriodSeconds"] = grace
    return decode_pod(msgspec.json.encode({"metadata": meta}))


def test_the_others_go_with_a_pod_that_leaves_its_group() -> None:
    pods = [engine_pod("a-0", 1), engine_pod("a-1", 1, left=40), engine_pod("a-2", 40)]
    others = [engine_pod("b-0", 1), engine_pod("single", 1, left=50)]
    assert [pod.name for pod in companions([*pods, *others])] == ["a-0", "a-2"]


def test_a_pod_that_was_made_since_stays_while_others_of_its_former_group_end() -> None:
    assert companions([engine_pod("a-0", 41), engine_pod("a-1", 1, left=40)]) == []
    assert companions([engine_pod("a-0", 41), engine_pod("a-1", 1, left=40), engine_pod("a-2", 1, left=42)])


def test_the_last_word_of_a_pod_that_has_ended_takes_no_successor_with_it() -> None:
    """The API server sets its deletion timestamp to that moment, which is after its successor was made."""
    assert companions([engine_pod("a-0", 41), engine_pod("a-1", 1, left=45, grace=0)]) == []


def test_a_group_made_anew_is_no_repair(make: Any, defaults: Defaults) -> None:
    llmd = make(status={"observedGeneration": 1}, **PAIR)
    found = plan(llmd, children(llmd, defaults), {}, frozenset())
    assert {write.kind for write in found.applies if not write.repairs} == {"StatefulSet"}
