"""With API keys on, a Secret says who may ask for its namespace's models, from the moment that it changes."""

from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from e2e.installation import changed
from e2e.kubectl import Kubectl
from e2e.traffic import ask
from e2e.waiting import wait_for

KEY, NEW_KEY = "sk-first-0123456789", "sk-second-0123456789"
LIMIT = "octavo.dev/tokens-per-minute"


@pytest.fixture
def keys_on(octavo: str, kubectl: Kubectl) -> Iterator[None]:
    """The release with API keys and two routers, for this case alone."""
    with changed(kubectl, {"router": {"apiKeys": {"enabled": True}, "replicas": 2}}):
        yield


def secret(key: str, **annotations: str) -> dict[str, object]:
    labels = {"octavo.dev/api-keys": "true"}
    metadata = {"name": "keys", "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"ada": key}}


@pytest.mark.usefixtures("keys_on")
def test_a_secret_opens_its_namespaces_models(
    deploy: Callable[..., str], octavo: str, kubectl: Kubectl, namespace: str
) -> None:
    model = deploy("guarded")

    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{octavo}/v1", api_key=key, max_retries=0, timeout=120)

    def told(key: str, **asked: str) -> set[int]:
        """Statuses of requests on connections of their own, which any of the routers may get."""
        method, url = ("POST", f"{octavo}/v1/completions") if asked else ("GET", f"{octavo}/v1/models")
        headers = {"Authorization": f"Bearer {key}"}
        return {
            httpx.request(method, url, json=asked or None, headers=headers).status_code for _ in range(20)
        }

    with pytest.raises(openai.AuthenticationError, match="not known"):
        ask(client(KEY), model)
    kubectl.apply(secret(KEY), namespace=namespace)
    wait_for("the key", lambda: told(KEY) == {200})
    assert ask(client(KEY), model)
    assert [entry.id for entry in client(KEY).models.list()] == ["guarded"]

    kubectl.apply(secret(NEW_KEY, **{LIMIT: "10"}), namespace=namespace)
    wait_for("the other key", lambda: (told(NEW_KEY), told(KEY)) == ({200}, {401}))
    assert ask(client(NEW_KEY), model), "a request may go while anything is left of the limit"
    wait_for("the limit at both routers", lambda: told(NEW_KEY, model="takes nothing") == {429}, seconds=10)
    with pytest.raises(openai.RateLimitError, match="10 tokens a minute") as refused:
        ask(client(NEW_KEY), model)
    assert int(refused.value.response.headers["retry-after"]) >= 1

    kubectl("delete", "secret", "keys", "-n", namespace)
    wait_for("no key", lambda: told(NEW_KEY) == {401})
