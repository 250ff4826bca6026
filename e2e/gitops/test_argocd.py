"""Real Argo CD keeps models as Git has them, tells when they serve, and sees no drift as pods move."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from e2e.autoscaling import down_at_once
from e2e.cluster.errors import ClusterError
from e2e.conftest import MODEL
from e2e.figures import keep
from e2e.kubectl import Kubectl
from e2e.open_loop import Load, open_loop
from e2e.paced_model import PACED
from e2e.servers.argocd import NAMESPACE, Repository, argocd, git_server
from e2e.traffic import ask
from e2e.waiting import wait_for
from images.parts import REPOSITORY

DRIFT_SECONDS = float(os.environ.get("OCTAVO_DRIFT_SECONDS", "60"))
FIGURE_SECONDS = 600
SLACK = 1.0  # seconds between what two watches tell of the same moment
MANIFESTS = REPOSITORY / "manifests"
EXAMPLE = yaml.safe_load((MANIFESTS / "examples" / "smollm2.yaml").read_text())
HEALTH = '{.status.sync.status} {.status.health.status}{"\\n"}'
TRUE = '{.status.conditions[?(@.type=="Ready")].status}'
READY = f'{{.metadata.generation}} {TRUE} {{.status.observedGeneration}}{{"\\n"}}'
REPLICAS = '{.spec.replicas}{"\\n"}'
AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 3,
    "concurrency": 2,
    "idleSeconds": 5,
    "behavior": down_at_once(2),
}
MOVING = {
    **MODEL,
    "metadata": {"name": "moving"},
    "spec": {**MODEL["spec"], **PACED, "autoscaling": AUTOSCALING, "drainSeconds": 30},  # type: ignore[dict-item]
}
Lines = list[tuple[float, str]]


@dataclass(frozen=True)
class Synced:
    """A namespace that Argo CD syncs from a repository."""

    kubectl: Kubectl
    namespace: str
    repository: Repository

    def commit(self, **models: dict[str, Any] | None) -> None:
        """Write models into Git, or remove those that are None."""
        texts = {name: yaml.safe_dump(model) if model else None for name, model in models.items()}
        self.repository.commit({f"models/{name}.yaml": text for name, text in texts.items()})

    def application(self) -> dict[str, Any]:
        """What Argo CD says now."""
        found: dict[str, Any] = self.kubectl.get("application", "models", namespace=NAMESPACE)["status"]
        return found

    def max_num_seqs(self) -> int | None:
        """The setting of smollm2 that the case changes."""
        spec = self.kubectl.get("llmdeployment", "smollm2", namespace=self.namespace)["spec"]
        found: int | None = spec.get("engine", {}).get("maxNumSeqs")
        return found

    def exists(self, model: str) -> bool:
        """Whether the cluster has it."""
        try:
            return bool(self.kubectl.get("llmdeployment", model, namespace=self.namespace))
        except ClusterError:
            return False


@pytest.fixture
def synced(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[Synced]:
    """Argo CD over this case's namespace, by the samples that users copy."""
    samples = MANIFESTS / "gitops" / "argocd"
    application = yaml.safe_load((samples / "models.yaml").read_text())
    with git_server(tmp_path) as repository, argocd(kubectl, tmp_path, samples / "health.yaml"):
        application["spec"]["source"]["repoURL"] = repository.url
        application["spec"]["destination"]["namespace"] = namespace
        synced = Synced(kubectl, namespace, repository)
        synced.commit(smollm2=EXAMPLE, moving=MOVING)
        kubectl.apply(application, namespace=NAMESPACE)
        yield synced
        kubectl("delete", "application", "models", "-n", NAMESPACE)


@pytest.mark.timeout(900 + DRIFT_SECONDS)
def test_argo_cd_keeps_models_as_git_has_them(
    synced: Synced, kubectl: Kubectl, namespace: str, octavo: str, openai_client: openai.OpenAI
) -> None:
    watched = kubectl.watched("application", "models", namespace=NAMESPACE, show=HEALTH)
    ready = kubectl.watched("llmdeployment", "smollm2", namespace=namespace, show=READY)
    wait_for("both models", lambda: synced.exists("smollm2") and synced.exists("moving"))
    with watched as health, ready as model:
        healthy_once_it_serves(1, health, model)
        assert ask(openai_client, f"{namespace}/smollm2")
        changed = {**EXAMPLE, "spec": {**EXAMPLE["spec"], "engine": {"maxNumSeqs": 16}}}
        synced.commit(smollm2=changed)
        healthy_once_it_serves(2, health, model)
        assert synced.max_num_seqs() == 16

        patch = '{"spec": {"engine": {"maxNumSeqs": 99}}}'
        kubectl("patch", "llmdeployment", "smollm2", "-n", namespace, "--type=merge", "-p", patch)
        first(model, lambda line: line.split()[0] == "4")
        assert synced.max_num_seqs() == 16, "what Git has"
        first(model, lambda line: line.split() == ["4", "True", "4"])
        wait_for("health", lambda: health[-1][1] == "Synced Healthy")

        drift = drift_while_pods_move(synced, Load(octavo, f"{namespace}/moving", 20, 2), health)
        synced.commit(smollm2=None)
        wait_for("the model's end", lambda: not synced.exists("smollm2"))
    words = (
        f"{DRIFT_SECONDS:.0f} s, Argo CD v2.14.21, a model that the HPA and sleep move between 0 and 3 pods"
    )
    print(f"\n{drift} diffs: {words}", flush=True)
    if os.environ.get("OCTAVO_KEEP_FIGURES") and DRIFT_SECONDS >= FIGURE_SECONDS:
        keep("operator", "gitops_drift.10min", drift, "diffs", words)
    assert drift == 0, health


def healthy_once_it_serves(generation: int, health: Lines, model: Lines) -> None:
    """Wait until Argo CD says Healthy of this generation, which it must not before the model is Ready."""
    began = first(model, lambda line: line.split()[0] == str(generation))
    served = first(model, lambda line: line.split() == [str(generation), "True", str(generation)])
    told = first(health, lambda line: line == "Synced Healthy", after=served - SLACK)
    early = [line for when, line in health if began + SLACK < when < served - SLACK and "Healthy" in line]
    assert not early, health
    print(f"\ngeneration {generation}: served after {served - began:.1f} s, Healthy {told - served:+.1f} s")


def first(lines: Lines, right: Callable[[str], bool], after: float = 0) -> float:
    """When the first line came that is right; waits for it."""

    def found() -> float | None:
        return next((when for when, line in lines if when > after and right(line)), None)

    return wait_for("a line", found, seconds=180)


def drift_while_pods_move(synced: Synced, load: Load, health: Lines) -> int:
    """How often Argo CD found a difference, or synced, while load makes pods come and go."""
    kubectl, began = synced.kubectl, time.time()
    syncs = len(synced.application()["history"])
    with kubectl.watched("deployment", "moving", namespace=synced.namespace, show=REPLICAS) as replicas:
        while time.time() < began + DRIFT_SECONDS:
            with open_loop(load) as streams:
                wait_for("three pods", lambda: replicas and replicas[-1][1] == "3", seconds=120)
            assert {outcome.end for outcome in streams.outcomes} == {"complete"}
            wait_for("sleep", lambda: replicas[-1][1] == "0", seconds=120)
    moves = [number for _, number in replicas]
    print(f"\nreplicas of the moving model: {' '.join(moves)}", flush=True)
    found = [line for when, line in health if when > began and not line.startswith("Synced")]
    return len(found) + len(synced.application()["history"]) - syncs
