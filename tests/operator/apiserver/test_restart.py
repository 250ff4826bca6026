"""An operator that comes back to a cluster in which all is right. No other operator runs meanwhile."""

from typing import Any

import pytest

pytestmark = pytest.mark.apiserver


def test_restart_writes_nothing(kube: Any, new_operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    watcher = new_operator(OCTAVO_WATCH_NAMESPACES=namespace)
    for number in range(5):
        spec = {
            "resources": {"cpu": "1000m", "memory": "2048Mi"},
            "autoscaling": {"maxReplicas": 4, "queueDepth": 4, "kvCacheUsage": 0.8},
        }
        kube.create("LLMDeployment", body(namespace, f"m{number}", **spec)).raise_for_status()
    for number in range(5):
        kube.wait_reason(namespace, f"m{number}", "Loading")
    assert watcher.stop() == 0
    watcher.start()
    kube.wait("all resources", lambda: watcher.metric("octavo_operator_reconciles_total") >= 5)
    kube.wait("rest", lambda: watcher.metric("octavo_operator_queue_depth") == 0)
    assert watcher.writes == 0, watcher.requests
    assert watcher.stop() == 0


def test_a_port_in_use_is_told_in_one_sentence(new_operator: Any) -> None:
    first = new_operator()
    with pytest.raises(AssertionError) as found:
        new_operator(OCTAVO_HTTP_PORT=str(first.http_port))
    last = str(found.value).splitlines()
    assert any(
        f"octavo-operator: port {first.http_port} of 127.0.0.1 cannot be listened on" in line for line in last
    )
    assert "Traceback" not in str(found.value)
    assert first.stop() == 0
