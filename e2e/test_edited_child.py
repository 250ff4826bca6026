"""What somebody changes or deletes by hand is put right."""

import json
from collections.abc import Callable
from typing import Any

from e2e.kubectl import Kubectl
from e2e.waiting import wait_for

REPAIR_SECONDS = 10
KINDS = ("deployment", "service", "serviceaccount", "poddisruptionbudget")
EDITS: dict[str, list[dict[str, Any]]] = {
    "deployment": [
        {"op": "replace", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other/engine:1"},
        {"op": "remove", "path": "/spec/template/spec/containers/0/livenessProbe"},
    ],
    "service": [
        {"op": "replace", "path": "/spec/ports/0/port", "value": 8080},
        {"op": "remove", "path": "/metadata/ownerReferences"},
    ],
    "poddisruptionbudget": [
        {"op": "replace", "path": "/spec/maxUnavailable", "value": 0},
        {"op": "remove", "path": "/metadata/labels/app.kubernetes.io~1managed-by"},
    ],
}


def test_an_edited_or_deleted_child_is_put_right(
    deploy: Callable[..., str], kubectl: Kubectl, namespace: str
) -> None:
    deploy("edited", replicas=0)

    def child(kind: str) -> dict[str, Any]:
        found = kubectl.items(kind, "--field-selector=metadata.name=edited", namespace=namespace)
        return found[0] if found else {}

    def is_right(kind: str, right: Any) -> Callable[[], bool]:
        return lambda: intent(child(kind)) == right

    def is_another(kind: str, uid: str) -> Callable[[], bool]:
        return lambda: uid_of(child(kind)) not in ("", uid)

    for kind, edits in EDITS.items():
        right = intent(child(kind))
        for edit in edits:
            kubectl("patch", kind, "edited", "-n", namespace, "--type=json", "-p", json.dumps([edit]))
            wait_for(f"{kind} without {edit}", is_right(kind, right), REPAIR_SECONDS)
    for kind in KINDS:
        uid = uid_of(child(kind))
        kubectl("delete", kind, "edited", "-n", namespace, "--wait=false")
        wait_for(f"another {kind}", is_another(kind, uid), REPAIR_SECONDS)


def intent(child: dict[str, Any]) -> Any:
    """What a child is meant to be, without what the cluster keeps about it."""
    metadata = child.get("metadata", {})
    return metadata.get("labels"), metadata.get("ownerReferences"), child.get("spec")


def uid_of(child: dict[str, Any]) -> str:
    return str(child.get("metadata", {}).get("uid", ""))
