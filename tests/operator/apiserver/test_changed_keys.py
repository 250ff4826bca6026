"""Server-side apply leaves a list item whose key somebody changed: it must go all the same."""

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
