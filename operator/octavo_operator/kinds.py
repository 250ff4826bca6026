"""The kinds of child, and where the API server has them."""

from collections.abc import Mapping
from typing import Final

import msgspec

from octavo_operator.names import API_VERSION, PLURAL


class Kind(msgspec.Struct, frozen=True):
    name: str
    api_version: str
    plural: str

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of one object, of a namespace's collection, or of all."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{self.api_version}{scope}/{self.plural}" + (f"/{name}" if name else "")


DEPLOYMENT: Final = Kind("Deployment", "apps/v1", "deployments")
STATEFUL_SET: Final = Kind("StatefulSet", "apps/v1", "statefulsets")
GROUP_SCALE: Final = Kind("GroupScale", API_VERSION, "groupscales")
SERVICE: Final = Kind("Service", "v1", "services")
AUTOSCALER: Final = Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")
BUDGET: Final = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
ACCOUNT: Final = Kind("ServiceAccount", "v1", "serviceaccounts")
CLAIM: Final = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
POLICY: Final = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
POD: Final = Kind("Pod", "v1", "pods")
RESOURCE: Final = Kind("LLMDeployment", API_VERSION, PLURAL)
EVENT: Final = Kind("Event", "v1", "events")
LEASE: Final = Kind("Lease", "coordination.k8s.io/v1", "leases")

CHILDREN: Final[Mapping[str, Kind]] = {
    k.name: k
    for k in (DEPLOYMENT, SERVICE, AUTOSCALER, BUDGET, ACCOUNT, CLAIM, POLICY, STATEFUL_SET, GROUP_SCALE)
}


def kind_at(path: str) -> str:
    """The name of the kind whose collection has that path."""
    plural = path.rpartition("/")[2]
    return next((k.name for k in (*CHILDREN.values(), POD, RESOURCE, EVENT, LEASE) if k.plural == plural), "")
