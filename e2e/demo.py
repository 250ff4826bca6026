"""From nothing to a streamed answer: `python -m e2e.demo`; `python -m e2e.demo down` removes all of it."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.go_programs import linked_programs
from e2e.installation import NAMESPACE, LocalImages, install, load_and_install, uninstall
from e2e.kubectl import Kubectl
from images.errors import BuildError
from images.parts import REPOSITORY

MODEL = "smollm2"
MANIFEST = REPOSITORY / "manifests" / "examples" / f"{MODEL}.yaml"
ROUTER = "octavo-router"
QUESTION = "What is a book? Answer in two sentences."
READY_SECONDS = 300
POLL_SECONDS = 0.3


@dataclass
class Progress:
    """Says what happens, each line with the seconds since the start."""

    started: float
    last: str = ""

    def say(self, text: str) -> None:
        """One line; a line that was said just before is not said again."""
        if text != self.last:
            print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)
            self.last = text


def up_locally(say: Callable[[str], None]) -> Kubectl:
    """A cluster on this machine with Octavo on it; one that is up already is upgraded.

    Raises:
        ClusterError, BuildError: a precondition is missing, or a part did not come up.
    """
    cluster = Cluster("demo", say)
    cluster.check()
    say("programs: Kubernetes, etcd, CoreDNS and helm")
    linked_programs(say)
    say("images: operator, router and engine")
    images = LocalImages.build(say)
    if not cluster.is_up:
        say("cluster: a real Kubernetes with one node")
        cluster.down()  # what an interrupted start may have left
        cluster.up(1)
    say("octavo: images into the node, chart into the cluster")
    load_and_install(cluster, images)
    return Kubectl(cluster.kubeconfig)


def up_on_current(say: Callable[[str], None]) -> Kubectl:
    """Octavo on the cluster of KUBECONFIG, which pulls the images from IMAGE_REGISTRY.

    Raises:
        ClusterError, BuildError: it cannot be reached, or Octavo's pods did not become ready.
    """
    registry = os.environ.get("IMAGE_REGISTRY")
    if not registry:
        raise ClusterError(
            "CLUSTER=current needs IMAGE_REGISTRY: build the images by `make images`, push them to a "
            "registry that your cluster can pull from, and set IMAGE_REGISTRY to its name"
        )
    kubectl = Kubectl()
    say(f"cluster: {kubectl('config', 'current-context').strip()}")
    say(f"octavo: chart into the cluster, images from {registry}")
    install(kubectl, {"image": {"registry": registry}})
    return kubectl


def apply_model(kubectl: Kubectl, say: Callable[[str], None]) -> None:
    """Apply the example and wait until it is Ready, telling what its conditions say.

    Raises:
        ClusterError: it was not Ready in time, or will never be as it stands (Stalled).
    """
    say(f"model: kubectl apply -f {MANIFEST.relative_to(REPOSITORY)}")
    kubectl("apply", "-f", str(MANIFEST))
    deadline = time.monotonic() + READY_SECONDS
    while True:
        conditions = _conditions(kubectl.get("llmdeployment", MODEL))
        ready, stalled = conditions.get("Ready", {}), conditions.get("Stalled", {})
        say(
            f"model: {ready.get('reason', 'Pending')}: {ready.get('message', 'not seen by the operator yet')}"
        )
        if ready.get("status") == "True":
            return
        if stalled.get("status") == "True":
            raise ClusterError(f"the model is stalled: {stalled.get('message')}")
        if time.monotonic() > deadline:
            raise ClusterError(f"the model was not ready within {READY_SECONDS} s: {ready.get('message')}")
        time.sleep(POLL_SECONDS)


def _conditions(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in model.get("status", {}).get("conditions", [])}


@contextmanager
def router_url(kubectl: Kubectl, *, local: bool) -> Iterator[str]:
    """The router's URL: its Service's address on a local cluster, a forwarded port elsewhere."""
    if local:
        service = kubectl.get("service", ROUTER, namespace=NAMESPACE)
        yield f"http://{service['spec']['clusterIP']}"
    else:
        with kubectl.forwarded(f"service/{ROUTER}", 80, NAMESPACE) as url:
            yield url


def ask(url: str, say: Callable[[str], None]) -> None:
    """Ask the model through the router, and print the answer as it comes.

    Raises:
        ClusterError: no answer came, or it broke off.
    """
    say(f"question: {QUESTION}")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    print(end="\n    ")
    try:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            max_tokens=128,
            temperature=0,
        )
        finish = _print_stream(stream)
    except openai.OpenAIError as error:
        raise ClusterError(f"the model did not answer: {error}") from error
    print("\n")
    if not finish:
        raise ClusterError("the answer broke off: the stream ended without a finish reason")


def _print_stream(stream: openai.Stream[Any]) -> str | None:
    finish = None
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            finish = choice.finish_reason or finish
    return finish


def next_steps(kubectl: Kubectl, url: str, programs: Path | None) -> str:
    """What to try now."""
    lines = ["Try next:"]
    if programs and kubectl.kubeconfig:
        lines.append(f"  export KUBECONFIG={kubectl.kubeconfig} PATH={programs}:$PATH")
    else:
        lines.append(f"  kubectl port-forward -n {NAMESPACE} service/{ROUTER} 8000:80 &")
        url = "http://127.0.0.1:8000"
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Who are you?"}]}
    body |= {"stream": True, "temperature": 0}
    return "\n".join(
        [
            *lines,
            "  kubectl get llmd",
            f"  kubectl scale llmd {MODEL} --replicas=2",
            f"  curl {url}/v1/models",
            f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{json.dumps(body)}'",
            "  make demo-down" if programs else "  CLUSTER=current make demo-down",
        ]
    )


def up(*, local: bool) -> None:
    """The whole demo."""
    say = Progress(time.monotonic()).say
    kubectl = up_locally(say) if local else up_on_current(say)
    apply_model(kubectl, say)
    with router_url(kubectl, local=local) as url:
        ask(url, say)
        say("done; the cluster stays up until `make demo-down`" if local else "done")
        print(next_steps(kubectl, url, linked_programs(say) if local else None))


def down(*, local: bool) -> None:
    """Remove what the demo made: the whole cluster, or Octavo from the user's own."""
    if local:
        Cluster("demo").down()
        return
    kubectl = Kubectl()
    kubectl("delete", "-f", str(MANIFEST), "--ignore-not-found")
    uninstall(kubectl)


def main(arguments: list[str]) -> int:
    """Run the demo or its end; what is wrong is said in one sentence."""
    local = os.environ.get("CLUSTER", "local") != "current"
    try:
        (down if arguments == ["down"] else up)(local=local)
    except (ClusterError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `make demo-down` removes what is there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
