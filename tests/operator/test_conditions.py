# ruff: noqa: E501 - a table reads better with a row on a line
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.api import Download, Status, parse
from octavo_operator.causes import Cause, last_line, why
from octavo_operator.conditions import Seen, status_of
from octavo_operator.downloads import Fetching
from octavo_operator.observed.child import Child, DeploymentStatus
from octavo_operator.observed.pod import Pod, PodStatus

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def deployment(generation: int = 1, wanted: int = 1, **status: Any) -> Child:
    found = msgspec.convert({"observedGeneration": generation, **status}, DeploymentStatus)
    return Child(
        kind="Deployment", key=("d", "n"), uid="u", version=1, generation=1, replicas=wanted, status=found
    )


def all_ready(count: int) -> dict[str, int]:
    return {"replicas": count, "updatedReplicas": count, "readyReplicas": count}


def pod(status: dict[str, Any], name: str = "p", template: str = "t") -> Pod:
    found = msgspec.convert(status, PodStatus)
    return Pod(name=name, namespace="d", deployment="n", template=template, status=found)


def engine(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "engine", "image": "e:1", **state}]}


def crash(code: int, said: str = "it failed") -> dict[str, Any]:
    return engine(
        state={"waiting": {"reason": "CrashLoopBackOff"}},
        lastState={"terminated": {"exitCode": code, "message": said}},
    )


def fetch(**state: Any) -> dict[str, Any]:
    return {"initContainerStatuses": [{"name": "fetch", "image": "e:1", **state}]}


def failed_fetch(code: int, said: str = "it failed") -> dict[str, Any]:
    return fetch(state={"running": {}}, lastState={"terminated": {"exitCode": code, "message": said}})


def far(percent: int, trouble: str = "") -> Fetching:
    download = Download(
        total_bytes=100,
        downloaded_bytes=percent,
        percent=percent,
        file="m.safetensors",
        progress=f"{percent}% of 100 B",
    )
    return Fetching(download, trouble)


def seen(child: Child | None, *pods: Pod, blockers: tuple[Cause, ...] = ()) -> Seen:
    return Seen(deployment=child, pods=pods, template="t", blockers=blockers)


def told(status: Status) -> dict[str, str]:
    return {c.type: c.status for c in status.conditions} | {"reason": status.conditions[0].reason}


READY = {"Ready": "True", "Reconciling": "False", "Stalled": "False", "Available": "True"}
WORKING = {"Ready": "False", "Reconciling": "True", "Stalled": "False", "Available": "False"}
STALLED = {"Ready": "False", "Reconciling": "False", "Stalled": "True", "Available": "False"}


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        pytest.param(seen(None), {**WORKING, "reason": "Loading"}, id="nothing is there yet"),
        pytest.param(
            seen(deployment(**all_ready(1))), {**READY, "reason": "AllPodsReady"}, id="all pods answer"
        ),
        pytest.param(
            seen(deployment(generation=0, **all_ready(1))),
            {**WORKING, "Available": "True", "reason": "Loading"},
            id="counts of a former spec do not count",
        ),
        pytest.param(
            seen(deployment(**{**all_ready(1), "replicas": 2})),
            {**WORKING, "Available": "True", "reason": "RollingOut"},
            id="an old pod is still there",
        ),
        pytest.param(
            seen(deployment(), pod(crash(1))), {**WORKING, "reason": "EngineCrashed"}, id="the engine crashes"
        ),
        pytest.param(
            seen(deployment(), pod(crash(2))), {**STALLED, "reason": "EngineRefused"}, id="a setting is wrong"
        ),
        pytest.param(
            seen(deployment(), pod(crash(2), template="old")),
            {**WORKING, "reason": "Loading"},
            id="the pod of a former spec is not blamed",
        ),
        pytest.param(
            seen(deployment(readyReplicas=1, replicas=2, updatedReplicas=1), pod(crash(2))),
            {**STALLED, "Available": "True", "reason": "EngineRefused"},
            id="the former pods go on serving",
        ),
        pytest.param(
            seen(deployment(), pod(crash(1), "a"), pod(crash(2), "b")),
            {**STALLED, "reason": "EngineRefused"},
            id="a final cause is told first",
        ),
        pytest.param(
            seen(deployment(), blockers=(Cause("Replacing", "m"), Cause("NameTaken", "m", final=True))),
            {**STALLED, "reason": "NameTaken"},
            id="a blocked child is told before pods",
        ),
        pytest.param(
            seen(
                deployment(
                    conditions=[
                        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
                    ]
                )
            ),
            {**STALLED, "reason": "StartupTimeout"},
            id="loading takes too long",
        ),
    ],
)
def test_conditions(make: Any, view: Seen, expected: dict[str, str]) -> None:
    assert told(status_of(make(), view, NOW)) == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        pytest.param(
            seen(deployment(), pod(failed_fetch(2))), {**STALLED, "reason": "DownloadRefused"}, id="no access"
        ),
        pytest.param(
            seen(deployment(), pod(failed_fetch(1))),
            {**WORKING, "reason": "DownloadFailed"},
            id="hub is away",
        ),
    ],
)
def test_downloads_that_fail(make: Any, view: Seen, expected: dict[str, str]) -> None:
    assert told(status_of(make(), view, NOW)) == expected


def test_a_download_is_told_with_the_pod_that_is_least_far(make: Any) -> None:
    pods = [pod(fetch(state={"running": {}}), name) for name in ("a", "b")]
    view = Seen(deployment=deployment(), pods=pods, template="t", downloads={"a": far(60), "b": far(40)})
    status = status_of(make(), view, NOW)
    assert told(status) == {**WORKING, "reason": "Downloading"}
    assert status.download == far(40).download
    assert status.conditions[0].message == "the model is being downloaded: 40% of 100 B, m.safetensors"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Fetching(None, "The hub is away."), "The hub is away. It is tried again."),
        (far(40, "It broke off."), "It broke off. It is tried again (40% of 100 B is there)."),
    ],
)
def test_a_try_that_failed_is_told_while_there_will_be_another(
    make: Any, said: Fetching, message: str
) -> None:
    pods = [pod(fetch(state={"running": {}}), name) for name in ("a", "b")]
    view = Seen(deployment=deployment(), pods=pods, template="t", downloads={"a": far(60), "b": said})
    status = status_of(make(), view, NOW)
    assert told(status) == {**WORKING, "reason": "DownloadFailed"}
    assert (status.conditions[0].message, status.download) == (message, said.download)


def test_a_download_that_goes_on_is_not_blamed_for_a_former_try(make: Any) -> None:
    view = Seen(deployment=deployment(), pods=[pod(failed_fetch(2))], template="t", downloads={"p": far(1)})
    assert told(status_of(make(), view, NOW)) == {**WORKING, "reason": "Downloading"}
    assert status_of(make(), seen(deployment(), pod(failed_fetch(2))), NOW).download is None


def test_ready_counts_what_is_wanted(make: Any) -> None:
    assert status_of(make(replicas=3), seen(deployment(readyReplicas=1)), NOW).ready == "1/3"
    autoscaled = make(autoscaling={"minReplicas": 2, "maxReplicas": 9, "queueDepth": 1})
    assert status_of(autoscaled, seen(deployment(wanted=5)), NOW).ready == "0/5"
    assert status_of(autoscaled, seen(None), NOW).ready == "0/2"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient memory"}]},
            "Unschedulable", "pod p cannot be scheduled: 0/3 nodes: Insufficient memory", id="which resource is missing",
        ),
        pytest.param(
            engine(state={"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            "ImagePullFailed", "image e:1 of pod p cannot be pulled: not found", id="which image cannot be pulled",
        ),
        pytest.param(
            engine(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}),
            "ContainerNotStarted", 'the container of pod p cannot be started: secret "s" not found', id="which secret is missing",
        ),
        pytest.param(
            crash(1, "a\nCUDA error\n\n"), "EngineCrashed", "CUDA error (pod p, exit code 1, not restarted yet)",
            id="the last line it said",
        ),
        pytest.param(crash(2, "no such model"), "EngineRefused", "no such model", id="the engine's own sentence"),
        pytest.param(crash(1, ""), "EngineCrashed", "exit code 1 without a message (pod p, exit code 1, not restarted yet)", id="silence"),
        pytest.param({"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}, "PodFailed", "pod p failed: disk pressure", id="evicted"),
    ],
)  # fmt: skip
def test_cause_of_a_pod(status: dict[str, Any], reason: str, message: str) -> None:
    found = why(pod(status))
    assert found is not None
    assert (found.reason, found.message) == (reason, message)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="just made"),
        pytest.param(engine(state={"waiting": {"reason": "ContainerCreating"}}), id="being created"),
        pytest.param(engine(state={"running": {}}), id="loading the model"),
        pytest.param({**crash(1), "conditions": [{"type": "Ready", "status": "True"}]}, id="ready again"),
    ],
)
def test_a_pod_on_its_way_has_no_cause(status: dict[str, Any]) -> None:
    assert why(pod(status)) is None


VIEWS = st.builds(
    lambda counts, pods, generation: seen(deployment(generation=generation, **counts), *pods),
    st.fixed_dictionaries({n: st.integers(0, 2) for n in ("replicas", "updatedReplicas", "readyReplicas")}),
    st.lists(
        st.sampled_from([pod(crash(1)), pod(crash(2)), pod({}), pod(crash(2), template="old")]), max_size=3
    ),
    st.integers(0, 1),
)
BODY = {
    "metadata": {"name": "n", "namespace": "d", "uid": "u", "generation": 3},
    "spec": {"model": {"source": "package://p"}},
}


@given(VIEWS, VIEWS)
def test_status_is_stable_consistent_and_dated_by_change(first: Seen, second: Seen) -> None:
    llmd = parse(BODY)
    former = status_of(llmd, first, NOW)
    again = msgspec.structs.replace(llmd, status=former)
    assert status_of(again, first, LATER) == former
    present = status_of(again, second, LATER)
    for before, after in zip(former.conditions, present.conditions, strict=True):
        assert (after.last_transition_time == LATER) == (before.status != after.status)
        assert after.observed_generation == 3
    ready, reconciling, stalled = (c.status == "True" for c in present.conditions[:3])
    assert [ready, reconciling, stalled].count(True) == 1


@given(st.text())
def test_the_last_line_is_one_line(text: str) -> None:
    assert len(last_line(text).splitlines()) <= 1
