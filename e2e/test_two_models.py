"""Two models behind one router: each name leads to its own pods."""

from collections.abc import Callable

import openai
import pytest
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.traffic import ask

SHORT_CONTEXT = 32  # tokens: what tells the pods of one model from those of the other


def test_each_model_answers_under_its_names(
    deploy: Callable[..., str], openai_client: openai.OpenAI, kubectl: Kubectl, namespace: str
) -> None:
    deploy("wide", ready=False, aliases=["gpt-4"])
    deploy("narrow", ready=False, servedName="org/narrow", engine={"maxModelLen": SHORT_CONTEXT})
    for name in ("wide", "narrow"):
        wait_ready(kubectl, name, namespace)

    listed = {each.id for each in openai_client.models.list()}
    assert listed >= {"wide", "gpt-4", "org/narrow"}
    for name in ("wide", "gpt-4", f"{namespace}/wide"):
        assert ask(openai_client, name, tokens=SHORT_CONTEXT + 8)
    for name in ("org/narrow", f"{namespace}/narrow"):
        with pytest.raises(openai.BadRequestError, match=str(SHORT_CONTEXT)):
            ask(openai_client, name, tokens=SHORT_CONTEXT + 8)
    with pytest.raises(openai.NotFoundError, match=r"There is no model named 'gpt-5'.*org/narrow"):
        ask(openai_client, "gpt-5")
