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

KV_CACHE_USAGE: Final = "octavo_kv_cache_usage_ratio"
REQUESTS_WAITING: Final = "octavo_num_requests_waiting"
REQUESTS_IN_FLIGHT: Final = "octavo_num_requests_in_flight"
"""Running and waiting ones."""
PROMPT_TOKENS: Final = "octavo_prompt_tokens_total"

Key = tuple[str, str]
"""Namespace and name of an LLMDeployment, and so of all its children."""
