from typing import Any

import msgspec
import pytest

from octavo_operator.desired.children import children
from octavo_operator.desired.meta import Defaults, Manifest

HUB = "hf://org/m@v1"


def deployment(llmd: Any, defaults: Defaults) -> Manifest:
    return next(m for m in children(llmd, defaults) if m["kind"] == "Deployment")["spec"]


def pod(llmd: Any, defaults: Defaults) -> Manifest:
    found: Manifest = deployment(llmd, defaults)["template"]["spec"]
    return found


def volume(spec: Manifest) -> Manifest:
    return next(v for v in spec["volumes"] if v["name"] == "models")


def test_a_model_is_downloaded_before_the_engine_starts(make: Any, defaults: Defaults) -> None:
    spec = pod(make(model={"source": HUB}), defaults)
    [fetch], [engine] = spec["initContainers"], spec["containers"]
    assert fetch["args"][:3] == ["fetch", HUB, "--cache=/models"]
    assert fetch["image"] == engine["image"] and fetch["securityContext"] == engine["securityContext"]
    assert {"name": "models", "mountPath": "/models"} in fetch["volumeMounts"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in engine["volumeMounts"]
    assert not {"ports", "startupProbe", "livenessProbe", "lifecycle"} & fetch.keys()


def test_the_download_holds_no_gpu_of_its_own(make: Any, defaults: Defaults) -> None:
    llmd = make(model={"source": HUB}, resources={"gpu": 1, "memory": "8Gi"})
    [fetch] = pod(llmd, defaults)["initContainers"]
    assert fetch["resources"] == {"requests": {"memory": "8Gi"}, "limits": {"memory": "8Gi"}}


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        pytest.param(None, {"emptyDir": {}}, id="a folder of the pod"),
        pytest.param(
            {"claimName": "c"}, {"persistentVolumeClaim": {"claimName": "c"}}, id="a claim that pods share"
        ),
        pytest.param(
            {"size": "50Gi"}, {"persistentVolumeClaim": {"claimName": "smollm2"}}, id="a claim that is made"
        ),
        pytest.param(
            {"hostPath": "/var/m"},
            {"hostPath": {"path": "/var/m", "type": "DirectoryOrCreate"}},
            id="a folder of the node",
        ),
    ],
)
def test_where_the_model_is_kept(
    make: Any, defaults: Defaults, cache: dict[str, str] | None, expected: Manifest
) -> None:
    model = {"source": HUB, **({"cache": cache} if cache else {})}
    assert volume(pod(make(model=model), defaults)) == {"name": "models", **expected}


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (
            {"size": "50Gi"},
            {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}},
        ),
        (
            {"size": 1000, "storageClassName": "fast", "accessMode": "ReadWriteOnce"},
            {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1000"}},
                "storageClassName": "fast",
            },
        ),
        ({"claimName": "c"}, None),
    ],
)
def test_a_claim_is_made_where_a_size_is_given(
    make: Any, defaults: Defaults, cache: dict[str, Any], expected: Manifest | None
) -> None:
    found = children(make(model={"source": HUB, "cache": cache}), defaults)
    claims = [m["spec"] for m in found if m["kind"] == "PersistentVolumeClaim"]
    assert claims == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (HUB, {"HF_TOKEN": "token"}),
        (
            "s3://b/m",
            {
                "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN": "AWS_SESSION_TOKEN",
            },
        ),
        ("oci://r/m:1", {"OCTAVO_REGISTRY_AUTH": ".dockerconfigjson"}),
    ],
)
def test_credentials_are_given_to_the_download_alone(
    make: Any, defaults: Defaults, source: str, expected: dict[str, str]
) -> None:
    spec = pod(make(model={"source": source, "secretName": "s"}), defaults)
    references = {
        e["name"]: e["valueFrom"]["secretKeyRef"]
        for e in spec["initContainers"][0]["env"]
        if "valueFrom" in e
    }
    assert {name: reference["key"] for name, reference in references.items()} == expected
    assert {reference["name"] for reference in references.values()} == {"s"}
    assert all("valueFrom" not in e for e in spec["containers"][0]["env"])


def test_server_and_region_are_passed_on(make: Any, defaults: Defaults) -> None:
    model = {"source": "s3://b/m", "endpoint": "http://s3:9000", "region": "eu"}
    [fetch] = pod(make(model=model), defaults)["initContainers"]
    assert {"--endpoint=http://s3:9000", "--region=eu"} <= set(fetch["args"])


def test_a_changed_source_is_another_link_in_the_cache(make: Any, defaults: Defaults) -> None:
    models = [{"source": HUB}, {"source": "hf://org/m@v2"}, {"source": HUB, "endpoint": "http://e"}]
    assert len({pod(make(model=m), defaults)["containers"][0]["args"][1] for m in models}) == 3


def test_a_download_may_take_a_day_before_it_is_called_stuck(make: Any, defaults: Defaults) -> None:
    downloaded = deployment(make(model={"source": HUB}), defaults)["progressDeadlineSeconds"]
    assert downloaded - deployment(make(), defaults)["progressDeadlineSeconds"] == 24 * 3600


def test_a_cluster_with_image_volumes_mounts_an_artifact_itself(make: Any, defaults: Defaults) -> None:
    able = msgspec.structs.replace(defaults, image_volumes=True)
    model = {"source": "oci://r.io/m:1#models/llama", "secretName": "pull"}
    spec = pod(make(model=model, imagePullSecrets=[{"name": "own"}]), able)
    assert volume(spec) == {"name": "models", "image": {"reference": "r.io/m:1"}}
    assert "initContainers" not in spec
    assert "--model=/models/models/llama" in spec["containers"][0]["args"]
    assert spec["imagePullSecrets"] == [{"name": "own"}, {"name": "pull"}]
    assert "initContainers" in pod(make(model={"source": HUB}), able)


def test_a_model_s_own_token_takes_the_place_of_everybody_s(make: Any, defaults: Defaults) -> None:
    """The API server refuses two variables of one name."""
    llmd = make(
        model={"source": HUB, "secretName": "own"},
        podTemplate={"env": [{"name": "HF_TOKEN", "value": "everybody's"}]},
    )
    [fetch] = pod(llmd, defaults)["initContainers"]
    [token] = [each for each in fetch["env"] if each["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"]["name"] == "own"
