"""What is no longer wanted leaves a child that was created by POST."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

AUTO = {"minReplicas": 2, "maxReplicas": 4, "queueDepth": 4}


def test_what_is_no_longer_wanted_leaves_a_child(kube: Any, operator: Any, body: Any) -> None:
    def deployment() -> Any:
        return kube.get("Deployment", namespace, "smollm2")

    def pods(found: Any) -> Any:
        return found["spec"]["template"]["spec"]

    def told(spec: dict[str, Any]) -> None:
        kube.patch("LLMDeployment", namespace, "smollm2", {"spec": spec}).raise_for_status()

    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    placed = {"scheduling": {"nodeSelector": {"disk": "fast"}}, "engine": {"env": env}}
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, autoscaling=AUTO, **placed)).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    made = deployment()
    told({"engine": {"env": env[1:]}, "scheduling": None})
    kube.wait("any node", lambda: "nodeSelector" not in pods(deployment()))
    assert [e["name"] for e in pods(deployment())["containers"][0]["env"] if e["name"] in "AB"] == ["B"]
    told({"engine": None})
    kube.wait("no variable", lambda: "B" not in str(pods(deployment())["containers"][0]["env"]))
    told(placed)
    kube.wait("the first spec", lambda: "nodeSelector" in pods(deployment()))
    found = deployment()
    assert found["spec"] == made["spec"], "all defaults are as they were"
    held = [(entry["manager"], entry["operation"]) for entry in found["metadata"]["managedFields"]]
    assert ("octavo-operator", "Apply") in held and ("octavo-operator", "Update") not in held
