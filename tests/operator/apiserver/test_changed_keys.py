"""Edits that an apply alone cannot undo: a list item with another key, a child that the caches do not see."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver


def test_a_changed_port_is_put_right(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    right = kube.wait("the Service", lambda: kube.get("Service", namespace, "smollm2"))["spec"]
    kube.wait_reason(namespace, "smollm2", "Loading")
    ports = [{**right["ports"][0], "port": 8080}]
    kube.patch("Service", namespace, "smollm2", {"spec": {"ports": ports}}).raise_for_status()
    kube.wait("the port", lambda: kube.get("Service", namespace, "smollm2")["spec"] == right)
    kube.wait_reason(namespace, "smollm2", "Loading")


def test_a_child_without_the_label_that_the_caches_select_by_is_put_right(
    kube: Any, operator: Any, body: Any
) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace)).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    right = kube.get("PodDisruptionBudget", namespace, "smollm2")["metadata"]
    unlabelled = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    kube.patch("PodDisruptionBudget", namespace, "smollm2", unlabelled).raise_for_status()

    def is_right() -> bool:
        found = kube.get("PodDisruptionBudget", namespace, "smollm2")["metadata"]
        return bool(found["labels"] == right["labels"] and found["uid"] == right["uid"])

    kube.wait("the label", is_right)
    kube.wait_reason(namespace, "smollm2", "Loading")
