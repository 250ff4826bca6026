"""Specs that cannot work are refused when they are applied, in words that say what to do."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from e2e.cluster.errors import ClusterError
from e2e.conftest import MODEL
from e2e.kubectl import Kubectl

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "replicas beside autoscaling": (
        {"replicas": 2, "autoscaling": {"maxReplicas": 3, "queueDepth": 4}},
        "set either spec.replicas or spec.autoscaling, not both",
    ),
    "more replicas at least than at most": (
        {"autoscaling": {"minReplicas": 4, "maxReplicas": 3, "queueDepth": 4}},
        "autoscaling.minReplicas (4) must not be greater than autoscaling.maxReplicas (3)",
    ),
    "a model of nobody": ({"model": {"source": "hf://model"}}, "'hf://model' must be hf://OWNER/NAME"),
    "two caches": (
        {"model": {"source": "hf://org/model", "cache": {"claimName": "a", "hostPath": "/b"}}},
        "model.cache is one of size, claimName and hostPath",
    ),
    "a model from nowhere": ({"model": {"source": "llama"}}, "model.source 'llama' has no known scheme"),
    "more ranks than GPUs": (
        {"parallelism": {"tensor": 2}, "resources": {"gpu": 3}},
        "parallelism.tensor x parallelism.pipeline (2 x 1) must equal resources.gpu (3)",
    ),
    "a flag that the operator sets": (
        {"engine": {"extraArgs": ["--port=9000"]}},
        "engine.extraArgs must not set --port: the operator does",
    ),
    "an alias that is the name": (
        {"servedName": "big", "aliases": ["big"]},
        "aliases must not repeat servedName 'big'",
    ),
    "memory that is no quantity": (
        {"resources": {"memory": "lots"}},
        "'lots' must be a quantity greater than 0",
    ),
    "a rollout that cannot move": (
        {"rollout": {"maxSurge": 0, "maxUnavailable": 0}},
        "rollout.maxSurge and rollout.maxUnavailable must not both be 0",
    ),
    "a misspelt field": ({"replica": 2}, 'unknown field "spec.replica"'),
}


@pytest.mark.usefixtures("octavo")
@pytest.mark.parametrize(("spec", "words"), list(REFUSED.values()), ids=list(REFUSED))
def test_is_refused(spec: dict[str, Any], words: str, kubectl: Kubectl) -> None:
    model: dict[str, Any] = copy.deepcopy(MODEL)
    model["metadata"] = {"name": "refused"}
    model["spec"] |= spec
    with pytest.raises(ClusterError) as refusal:
        kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(model))
    assert words in " ".join(str(refusal.value).split())


def test_the_name_that_clients_use_cannot_be_changed(
    deploy: Callable[..., str], kubectl: Kubectl, namespace: str
) -> None:
    deploy("named", servedName="one", replicas=0)
    patch = json.dumps({"spec": {"servedName": "two"}})
    with pytest.raises(ClusterError, match="servedName cannot be changed"):
        kubectl("patch", "llmdeployment", "named", "-n", namespace, "--type=merge", "-p", patch)
