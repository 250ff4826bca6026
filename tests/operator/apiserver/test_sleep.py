"""A resource with minReplicas 0: its Deployment goes to zero when its pod is idle, and wakes when called."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

AUTOSCALING = {"minReplicas": 0, "maxReplicas": 3, "concurrency": 8, "idleSeconds": 5}


class Engine(http.server.BaseHTTPRequestHandler):
    """Tells how many requests it has in flight."""

    in_flight = 1

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            b"octavo_num_requests_in_flight %d\noctavo_prompt_tokens_total 5\n" % Engine.in_flight
        )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def operator(new_operator: Any) -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = new_operator(OCTAVO_ENGINE_PORT=str(server.server_address[1]))
        yield found
        assert "Traceback" not in found.log, found.log
        assert found.stop() == 0
        server.shutdown()


def replicas(kube: Any, namespace: str) -> int:
    return int(kube.get("Deployment", namespace, "smollm2")["spec"]["replicas"])


def report(kube: Any, namespace: str, count: int) -> None:
    """Say what the Deployment's controller would."""
    generation = kube.get("Deployment", namespace, "smollm2")["metadata"]["generation"]
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    status = {"observedGeneration": generation, **dict.fromkeys(names, count)}
    kube.patch("Deployment", namespace, "smollm2", {"status": status}, "/status").raise_for_status()


def start_pod(kube: Any, namespace: str) -> None:
    template = kube.get("Deployment", namespace, "smollm2")["spec"]["template"]
    meta = {"name": "pod", "namespace": namespace, **template["metadata"]}
    kube.create("Pod", {"metadata": meta, "spec": template["spec"]}).raise_for_status()
    status = {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    kube.patch("Pod", namespace, "pod", {"status": status}, "/status").raise_for_status()


def call(kube: Any, namespace: str, word: str) -> None:
    body = {"status": {"wakeRequested": word}}
    kube.patch("LLMDeployment", namespace, "smollm2", body, "/status").raise_for_status()


def test_it_sleeps_when_idle_and_wakes_when_called(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, autoscaling=AUTOSCALING)).raise_for_status()
    kube.wait("the Deployment", lambda: kube.get("Deployment", namespace, "smollm2"))
    hpa = kube.wait("the HPA", lambda: kube.get("HorizontalPodAutoscaler", namespace, "smollm2"))
    assert hpa["spec"]["minReplicas"] == 1
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    start_pod(kube, namespace)
    report(kube, namespace, 1)
    kube.wait_reason(namespace, "smollm2", "AllPodsReady")
    assert replicas(kube, namespace) == 1, "a request is in flight"

    Engine.in_flight = 0
    kube.wait("no pods wanted", lambda: replicas(kube, namespace) == 0, seconds=30)
    kube.delete("Pod", namespace, "pod")
    report(kube, namespace, 0)
    kube.wait_reason(namespace, "smollm2", "ScaledToZero")

    call(kube, namespace, "first")
    kube.wait("a pod wanted", lambda: replicas(kube, namespace) == 1)

    def handled() -> bool:
        status = kube.get("LLMDeployment", namespace, "smollm2")["status"]
        return bool(status.get("wakeHandled") == status["wakeRequested"] == "first")

    kube.wait("the call marked as handled", handled)
    assert replicas(kube, namespace) == 1, "the pod that starts is not taken for an idle one"


def test_a_call_outlives_the_operator_and_sleep_does_too(kube: Any, operator: Any, body: Any) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, autoscaling=AUTOSCALING)).raise_for_status()
    kube.wait("the Deployment", lambda: kube.get("Deployment", namespace, "smollm2"))
    kube.patch("Deployment", namespace, "smollm2", {"spec": {"replicas": 0}}).raise_for_status()
    report(kube, namespace, 0)
    kube.wait_reason(namespace, "smollm2", "ScaledToZero")
    assert operator.stop() == 0
    operator.start()
    kube.wait("a look at all resources", lambda: operator.metric("octavo_operator_reconciles_total") >= 1)
    assert replicas(kube, namespace) == 0
    assert operator.stop() == 0
    call(kube, namespace, "while it was away")
    operator.start()
    kube.wait("a pod wanted", lambda: replicas(kube, namespace) == 1)
