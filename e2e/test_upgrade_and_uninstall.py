"""Octavo is upgraded, uninstalled and installed again under models that serve."""

from collections.abc import Callable

import openai
from e2e.conftest import wait_ready
from e2e.installation import NAMESPACE, LocalImages, install, uninstall
from e2e.kubectl import Kubectl
from e2e.traffic import ask, open_stream, steady_traffic, tokens_in
from e2e.waiting import wait_for

HELM = "app.kubernetes.io/instance=octavo"
STREAM_SECONDS = 20  # longer than an upgrade takes


def test_models_serve_through_upgrade_and_uninstall(
    deploy: Callable[..., str],
    openai_client: openai.OpenAI,
    kubectl: Kubectl,
    namespace: str,
    images: LocalImages,
) -> None:
    model = deploy("lasting")
    tokens = tokens_in(STREAM_SECONDS, openai_client, model)

    def engine() -> str:
        (pod,) = kubectl.items("pods", "-l", "octavo.dev/deployment=lasting", namespace=namespace)
        return str(pod["metadata"]["uid"])

    def octavo_pods() -> set[str]:
        return {pod["metadata"]["uid"] for pod in kubectl.items("pods", namespace=NAMESPACE)}

    same, before = engine(), octavo_pods()
    with steady_traffic(openai_client, model), open_stream(openai_client, model, tokens) as stream:
        install(kubectl, images.values(), {"watchNamespaces": [namespace]})
        assert not stream.over, f"the stream was to outlive the upgrade: it had {tokens} tokens"
    wait_for("no pod of the former release", lambda: not octavo_pods() & before, seconds=90)
    assert engine() == same

    router_ip = kubectl.get("service", "octavo-router", namespace=NAMESPACE)["spec"]["clusterIP"]
    uninstall(kubectl)
    left = kubectl.items("deployments,services,serviceaccounts,configmaps", "-l", HELM, namespace=NAMESPACE)
    assert left == []
    assert "custom.metrics.k8s.io" not in kubectl("get", "apiservices", "-o", "name")
    assert kubectl.get("llmdeployment", "lasting", namespace=namespace)["status"]["ready"] == "1/1"
    assert engine() == same

    install(kubectl, images.values(), {"router": {"service": {"clusterIP": router_ip}}})
    wait_ready(kubectl, "lasting", namespace)
    assert engine() == same
    assert ask(openai_client, model)
