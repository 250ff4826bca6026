"""Two models behind one router: each name leads to its own pods, and an alias moves from one to the other."""

import json
from collections.abc import Callable

import openai
import pytest
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import ask
from e2e.waiting import wait_for

ALIAS = "gpt-4"
SHORT_CONTEXT = 32  # tokens: what tells the pods of one model from those of the other


def test_each_model_answers_under_its_names(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    deploy("large", ready=False, aliases=[ALIAS])  # the older one, also by its name if in one second
    deploy("small", ready=False, servedName="org/small", engine={"maxModelLen": SHORT_CONTEXT})
    for name in ("large", "small"):
        wait_ready(kubectl, name, namespace)

    listed = {each.id for each in openai_client.models.list()}
    assert listed >= {"large", ALIAS, "org/small"}
    for name in ("large", ALIAS, f"{namespace}/large"):
        assert ask(openai_client, name, tokens=SHORT_CONTEXT + 8)
    for name in ("org/small", f"{namespace}/small"):
        with pytest.raises(openai.BadRequestError, match=str(SHORT_CONTEXT)):
            ask(openai_client, name, tokens=SHORT_CONTEXT + 8)
    with pytest.raises(openai.NotFoundError, match=r"There is no model named 'gpt-5'.*org/small"):
        ask(openai_client, "gpt-5")

    pods = pod_names(kubectl, namespace)
    rename(kubectl, namespace, "small", [ALIAS])  # not its own before the older one lets go
    assert ask(openai_client, ALIAS, tokens=SHORT_CONTEXT + 8)
    rename(kubectl, namespace, "large", [])

    def moved() -> bool:
        try:
            return not ask(openai_client, ALIAS, tokens=SHORT_CONTEXT + 8)
        except openai.BadRequestError as error:
            return str(SHORT_CONTEXT) in str(error)

    wait_for("the alias at the other model", moved)
    assert pod_names(kubectl, namespace) == pods, "no pod was restarted for a name"


def rename(kubectl: Kubectl, namespace: str, model: str, aliases: list[str]) -> None:
    """Give a model these aliases."""
    patch = json.dumps({"spec": {"aliases": aliases}})
    kubectl("patch", "llmdeployment", model, "-n", namespace, "--type=merge", "-p", patch)


def pod_names(kubectl: Kubectl, namespace: str) -> set[str]:
    """All pods of the namespace."""
    return {pod["metadata"]["name"] for pod in kubectl.items("pods", namespace=namespace)}
