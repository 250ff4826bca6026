"""The names of docs/contract.md that the operator writes and reads."""

from typing import Final

GROUP: Final = "octavo.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LLMDeployment"
PLURAL: Final = "llmdeployments"

DEPLOYMENT_LABEL: Final = "octavo.dev/deployment"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "octavo"
HASH_ANNOTATION: Final = "octavo.dev/desired-hash"
GROUP_LABEL: Final = "octavo.dev/group"
"""On the pods of a group: its name, which is that of its StatefulSet."""
MEMBER_LABEL: Final = "apps.kubernetes.io/pod-index"
"""Kubernetes sets it on the pods of a StatefulSet; the leader is 0."""
TEMPLATE_ANNOTATION: Final = "octavo.dev/template-hash"
SCALED_BY_ANNOTATION: Final = "octavo.dev/scaled-by"

FIELD_MANAGER: Final = "octavo-operator"
SCALE_MANAGER: Final = "octavo-operator-scale"
"""Holds a child Deployment's replicas between our letting go of them and the HPA's first change."""

CONTAINER: Final = "engine"
FETCH_CONTAINER: Final = "fetch"
"""Downloads the model before the engine starts; its /health tells how far it is."""
PORT_NAME: Final = "http"
PORT: Final = 8000
GROUP_PORT: Final = 6379
"""Where Ray of a group's leader waits for the others."""

KV_CACHE_USAGE: Final = "octavo_kv_cache_usage_ratio"
REQUESTS_WAITING: Final = "octavo_num_requests_waiting"
REQUESTS_IN_FLIGHT: Final = "octavo_num_requests_in_flight"
"""Running and waiting ones."""
PROMPT_TOKENS: Final = "octavo_prompt_tokens_total"

Key = tuple[str, str]
"""Namespace and name of an object."""


GROUP_VARIABLE: Final = "OCTAVO_GROUP"
MEMBER_VARIABLE: Final = "OCTAVO_MEMBER"
NODE_IP_VARIABLE: Final = "OCTAVO_NODE_IP"
"""Environment variables of a group's pods."""


def members_name(name: str) -> str:
    """The headless Service that gives a group's pods their DNS names."""
    return f"{name}-members"


def group_name(name: str, index: int) -> str:
    return f"{name}-{index}"
