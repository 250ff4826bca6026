"""The engines' pods where the API server enforces the restricted Pod Security Standard."""

from typing import Any

import pytest
from tests.operator.apiserver.test_operator import apply, pod

pytestmark = pytest.mark.apiserver


def test_a_namespace_of_the_restricted_standard_lets_the_engines_pods_in(
    kube: Any, operator: Any, body: Any
) -> None:
    namespace = apply(kube, body(kube.namespace(), model={"source": "hf://org/model"}))
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    path = f"/api/v1/namespaces/{namespace}"
    headers = {"Content-Type": "application/merge-patch+json"}
    kube.http.patch(path, json={"metadata": {"labels": enforce}}, headers=headers).raise_for_status()
    refused = {
        "metadata": {"name": "x", "namespace": namespace},
        "spec": {"containers": [{"name": "x", "image": "x"}]},
    }
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    refused["spec"]["serviceAccountName"] = "smollm2"
    assert "restricted" in kube.create("Pod", refused).json()["message"]
    pod(kube, namespace, "smollm2-1", {"phase": "Running"})
