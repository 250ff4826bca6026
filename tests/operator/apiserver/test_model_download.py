"""What a pod says of its download reaches the status, and goes with it; the test plays pod and hub."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

NO_ROOM = "log\nThe model needs 16.1 GB more and /models has 3.2 GB free; give the cache a larger volume.\n"


class Engine:
    """Answers /health as a container does that downloads."""

    def __init__(self) -> None:
        self.told = {"downloadedBytes": 0, "totalBytes": 0, "file": ""}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"status": "downloading", "message": "", "download": engine.told}).encode()
                self.send_response(503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    found = Engine()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def operator(new_operator: Any, engine: Engine) -> Iterator[Any]:
    """One that asks the engine of this test."""
    found = new_operator(OCTAVO_ENGINE_PORT=str(engine.server.server_port))
    yield found
    assert found.stop() == 0, found.log


def fetching(**state: Any) -> dict[str, Any]:
    status = {"name": "fetch", "image": "e", "imageID": "", "ready": False, "restartCount": 0, **state}
    address = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    return {"phase": "Pending", **address, "initContainerStatuses": [status]}


def test_the_claim_of_a_cache_is_made_owned_and_removed_when_it_is_no_longer_asked_for(
    kube: Any, operator: Any, body: Any
) -> None:
    namespace = kube.namespace()
    model = {"source": "hf://org/m", "cache": {"size": "1Gi"}}
    kube.create("LLMDeployment", body(namespace, model=model)).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    claim = kube.get("PersistentVolumeClaim", namespace, "smollm2")
    assert [o["kind"] for o in claim["metadata"]["ownerReferences"]] == ["LLMDeployment"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Gi"}}
    before = operator.writes
    kube.patch("LLMDeployment", namespace, "smollm2", {"spec": {"replicas": 2}}).raise_for_status()
    kube.wait("the replicas", lambda: kube.get("Deployment", namespace, "smollm2")["spec"]["replicas"] == 2)
    assert operator.writes - before <= 3  # the Deployment (first its fields), the status; not the claim
    kube.patch("LLMDeployment", namespace, "smollm2", {"spec": {"model": {"cache": None}}}).raise_for_status()

    def leaving() -> bool:
        found = kube.get("PersistentVolumeClaim", namespace, "smollm2")
        return found is None or "deletionTimestamp" in found["metadata"]

    kube.wait("the claim's end", leaving)


def test_a_download_from_its_begin_to_its_end(kube: Any, operator: Any, body: Any, engine: Engine) -> None:
    namespace = kube.namespace()
    kube.create("LLMDeployment", body(namespace, model={"source": "hf://org/m"})).raise_for_status()
    kube.wait_reason(namespace, "smollm2", "Loading")
    template = kube.get("Deployment", namespace, "smollm2")["spec"]["template"]
    assert [c["name"] for c in template["spec"]["initContainers"]] == ["fetch"]
    kube.wait("the account", lambda: kube.get("ServiceAccount", namespace, "smollm2"))
    pod = {
        "metadata": {"name": "p", "namespace": namespace, **template["metadata"]},
        "spec": template["spec"],
    }
    kube.create("Pod", pod).raise_for_status()

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = kube.get("LLMDeployment", namespace, "smollm2")["status"]
        return found

    engine.told = {"downloadedBytes": 42, "totalBytes": 100, "file": "a.safetensors"}
    kube.patch(
        "Pod", namespace, "p", {"status": fetching(state={"running": {}})}, "/status"
    ).raise_for_status()
    told = kube.wait_reason(namespace, "smollm2", "Downloading")
    assert told["Ready"]["message"] == "the model is being downloaded: 42% of 100 B, a.safetensors"
    assert told["Reconciling"]["status"] == "True"
    assert shown()["download"] == {**engine.told, "percent": 42, "progress": "42% of 100 B"}

    engine.told = {"downloadedBytes": 77, "totalBytes": 100, "file": "b.safetensors"}
    kube.wait("the next figure", lambda: shown()["download"]["percent"] == 77)

    ended = {"terminated": {"exitCode": 2, "message": NO_ROOM}}
    kube.patch("Pod", namespace, "p", {"status": fetching(state=ended)}, "/status").raise_for_status()
    told = kube.wait_reason(namespace, "smollm2", "DownloadRefused")
    assert told["Stalled"]["status"] == "True"
    assert told["Stalled"]["message"] == NO_ROOM.splitlines()[-1]
    assert "download" not in shown()


def test_a_cluster_without_image_volumes_is_found_out(
    kube: Any, operator: Any, body: Any, new_operator: Any
) -> None:
    assert operator.stop() == 0  # one operator at a time leads
    other = new_operator(OCTAVO_IMAGE_VOLUMES="true")
    for pods in (1, 2):
        namespace = kube.namespace()
        spec = {"model": {"source": "oci://r.example/m:1"}, "parallelism": {"tensor": pods, "pods": pods}}
        kube.create("LLMDeployment", body(namespace, **spec)).raise_for_status()
        found = kube.wait_reason(namespace, "smollm2", "ImageVolumesMissing")
        assert found["Stalled"]["status"] == "True"
        assert "set engine.imageVolumes of the chart to false" in found["Stalled"]["message"]
    assert other.stop() == 0
    operator.start()
