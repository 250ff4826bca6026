"""What a person wants to see when a test on the cluster has failed."""

from collections.abc import Iterator

from e2e.cluster.errors import ClusterError
from e2e.installation import NAMESPACE
from e2e.kubectl import Kubectl

LOG_LINES = "40"


def report(kubectl: Kubectl, namespaces: list[str]) -> str:
    """Models, pods, events and logs of the given namespaces and of Octavo's own."""
    return "\n".join(
        part for namespace in (*namespaces, NAMESPACE) for part in _of_namespace(kubectl, namespace)
    )


def _of_namespace(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    scope = ("-n", namespace)
    yield f"==== {namespace}"
    yield _said(
        kubectl, "get", "llmdeployments,deployments,pods,services,endpointslices,hpa", "-o", "wide", *scope
    )
    yield _said(
        kubectl, "get", "llmdeployments", "-o", "jsonpath={range .items[*]}{.status}{'\\n'}{end}", *scope
    )
    yield _said(kubectl, "get", "events", "--sort-by=.lastTimestamp", *scope)
    for pod in _said(kubectl, "get", "pods", "-o", "name", *scope).split():
        for previous in ((), ("--previous",)):
            log = _said(kubectl, "logs", pod, "--all-containers", "--tail", LOG_LINES, *previous, *scope)
            yield f"---- {pod} {' '.join(previous)}\n{log}"


def _said(kubectl: Kubectl, *words: str) -> str:
    try:
        return kubectl(*words)
    except ClusterError as error:
        return str(error)
