"""A cluster's own policies and quotas, which judge a request before the API server does its part."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"


def demand(kube: Any, namespace: str, group: str, resource: str, operation: str, rule: str) -> None:
    """A policy for one kind in one namespace."""
    rules = [{"apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "operations": [operation]}]
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": rule}]}
    kube.request("POST", POLICIES, json={"metadata": {"name": namespace}, "spec": spec})
    within = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    bound = {"policyName": namespace, "validationActions": ["Deny"], "matchResources": within}
    kube.request("POST", BINDINGS, json={"metadata": {"name": namespace}, "spec": bound})


def test_a_child_that_a_later_policy_forbids_is_put_right(kube: Any, operator: Any, body: Any) -> None:
    """The policy refuses whatever leaves the image as it is, whose fields are held by Update."""
    namespace = kube.namespace()
    labels = {"podTemplate": {"metadata": {"labels": {"team": "a"}}}}
    kube.create("LLMDeployment", body(namespace, image="untrusted/engine:1", **labels)).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    trusted = "object.spec.template.spec.containers.all(c, c.image.startsWith('trusted/'))"
    demand(kube, namespace, "apps", "deployments", "UPDATE", trusted)
    by_hand = {"metadata": {"annotations": {"by": "hand"}}}
    kube.wait("the policy", lambda: kube.patch("Deployment", namespace, "smollm2", by_hand).is_client_error)
    change = {"image": "trusted/engine:1", "podTemplate": None}
    kube.patch("LLMDeployment", namespace, "smollm2", {"spec": change}).raise_for_status()

    def template() -> Any:
        return kube.get("Deployment", namespace, "smollm2")["spec"]["template"]

    kube.wait("the image", lambda: template()["spec"]["containers"][0]["image"] == "trusted/engine:1")
    kube.wait("no label that is not wanted", lambda: "team" not in template()["metadata"]["labels"])
    kube.wait_reason(namespace, "smollm2", "Loading")


def test_a_name_in_use_is_told_where_creating_is_forbidden_too(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    meta = {"name": "smollm2", "namespace": namespace}
    spec = {"ports": [{"port": 80}], "selector": {"app": "other"}}
    kube.create("Service", {"metadata": meta, "spec": spec}).raise_for_status()
    demand(kube, namespace, "", "services", "CREATE", "false")

    def is_forbidden() -> bool:
        probe = {"metadata": {**meta, "name": "probe"}, "spec": spec}
        answer = kube.create("Service", probe)
        if answer.is_success:
            kube.delete("Service", namespace, "probe")
        return bool(answer.is_client_error)

    kube.wait("the policy", is_forbidden)
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "NameTaken")
    kube.delete("Service", namespace, "smollm2")
    found = kube.wait_reason(namespace, "smollm2", "ChildRefused")
    assert "Service was refused" in found["Stalled"]["message"]
    kube.delete("LLMDeployment", namespace, "smollm2")  # or it is tried again during the next tests
