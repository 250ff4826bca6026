"""A cluster without image volumes is found out by what it has left of a workload."""

from typing import Any

import msgspec
import pytest

from octavo_operator.desired.children import children, wanted_template
from octavo_operator.desired.meta import Defaults
from octavo_operator.image_volumes import lost_volume
from octavo_operator.observed.child import Child, decode_child

OCI = {"model": {"source": "oci://r.example/m:1"}}
PAIR = {"parallelism": {"tensor": 2, "pods": 2}}
WITH_VOLUMES = Defaults(engine_image="e", image_volumes=True)


def stored(llmd: Any, without_volume: str = "", owner: str = "u1") -> list[Child]:
    """The resource's children; the API server has left the models out of the workload of that name."""
    found = []
    for manifest in children(llmd, WITH_VOLUMES, groups=(0, 1)):
        metadata = manifest["metadata"] | {"uid": "u2", "resourceVersion": "7"}
        metadata["ownerReferences"] = [metadata["ownerReferences"][0] | {"uid": owner}]
        if manifest["kind"] in ("Deployment", "StatefulSet") and metadata["name"] == without_volume:
            pod = manifest["spec"]["template"]["spec"]
            pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "models"]
        body = manifest | {"metadata": metadata}
        found.append(decode_child(manifest["kind"], msgspec.json.encode(body)))
    return found


def reasons(llmd: Any, found: list[Child]) -> list[str]:
    template = wanted_template(llmd, WITH_VOLUMES)
    return [
        cause.reason for cause in lost_volume(llmd, image_volumes=True, template=template, children=found)
    ]


@pytest.mark.parametrize(("spec", "workload"), [({}, "smollm2"), (PAIR, "smollm2-0"), (PAIR, "smollm2-1")])
def test_a_workload_without_the_models_is_told(make: Any, spec: dict[str, Any], workload: str) -> None:
    llmd = make(**OCI, **spec)
    assert reasons(llmd, stored(llmd)) == []
    assert reasons(llmd, stored(llmd, without_volume=workload)) == ["ImageVolumesMissing"]


def test_groups_of_an_older_template_may_have_had_no_volume(make: Any) -> None:
    assert reasons(make(**OCI, **PAIR), stored(make(**PAIR))) == []


def test_a_deployment_that_groups_take_the_place_of_may_have_had_none(make: Any) -> None:
    assert reasons(make(**OCI, **PAIR), stored(make())) == []


def test_anothers_deployment_of_the_same_name_does_not_count(make: Any) -> None:
    llmd = make(**OCI)
    assert reasons(llmd, stored(llmd, without_volume="smollm2", owner="u9")) == []
