"""All that the operator does, so that it asks for every right it has."""

from typing import Any

import httpx
from e2e.waiting import wait_for

LLMDS = "/apis/octavo.dev/v1alpha1/namespaces/default/llmdeployments"
CHILDREN = {
    "deployments": "/apis/apps/v1/namespaces/default/",
    "statefulsets": "/apis/apps/v1/namespaces/default/",
    "groupscales": "/apis/octavo.dev/v1alpha1/namespaces/default/",
    "services": "/api/v1/namespaces/default/",
    "serviceaccounts": "/api/v1/namespaces/default/",
    "persistentvolumeclaims": "/api/v1/namespaces/default/",
    "poddisruptionbudgets": "/apis/policy/v1/namespaces/default/",
    "horizontalpodautoscalers": "/apis/autoscaling/v2/namespaces/default/",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/default/",
}
MERGE = {"Content-Type": "application/merge-patch+json"}
OF_GROUPS = {"statefulsets", "groupscales"}
HASH = "octavo.dev/desired-hash"
TYPES = {"groupscales": {"apiVersion": "octavo.dev/v1alpha1", "kind": "GroupScale"}}
GROUPS = {"parallelism": {"tensor": 2, "pods": 2}}
AUTOSCALING = {"maxReplicas": 4, "queueDepth": 4}
LABELS = {"matchLabels": {"app": "x"}}
FOREIGN: dict[str, dict[str, Any]] = {
    "networkpolicies": {"spec": {"podSelector": {}}},
    "groupscales": {"spec": {"selector": "app=x"}},
    "statefulsets": {
        "spec": {
            "serviceName": "x",
            "selector": LABELS,
            "template": {
                "metadata": {"labels": LABELS["matchLabels"]},
                "spec": {"containers": [{"name": "x", "image": "x"}]},
            },
        }
    },
    "serviceaccounts": {},
    "horizontalpodautoscalers": {
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
            "maxReplicas": 2,
        }
    },
}


def model(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": "hf://org/model", "cache": {"size": "1Gi"}}, **spec},
    }


def of_kind(kind: str) -> dict[str, Any]:
    """The spec of a resource that has such a child."""
    return GROUPS if kind in OF_GROUPS else {"autoscaling": AUTOSCALING}


class Story:
    """Everything that the operator does, one thing after another."""

    def __init__(self, kube: httpx.Client) -> None:
        self._kube = kube

    def reason(self, name: str) -> str:
        found = self._kube.get(f"{LLMDS}/{name}").json().get("status", {}).get("conditions", [])
        return next((c["reason"] for c in found if c["type"] == "Ready"), "")

    def makes_all_children_and_puts_them_right(self) -> None:
        self._kube.post(LLMDS, json=model("all", autoscaling=AUTOSCALING)).raise_for_status()
        wait_for("the status", lambda: self.reason("all") == "Loading")
        for kind in CHILDREN.keys() - OF_GROUPS:
            self.puts_right(kind)

    def puts_right(self, kind: str, name: str = "all") -> None:
        """What somebody took from a child."""
        path = f"{CHILDREN[kind]}{kind}/{name}"
        taken = {"metadata": {"annotations": {HASH: None}}}
        wait_for(f"{kind}", lambda: self._kube.patch(path, json=taken, headers=MERGE).is_success)
        wait_for(
            f"{kind} put right",
            lambda: HASH in self._kube.get(path).json()["metadata"].get("annotations", {}),
        )

    def deletes_what_is_no_longer_wanted(self) -> None:
        spec = {
            "autoscaling": None,
            "podTemplate": {"serviceAccountName": "other"},
            "model": {"cache": None},
        }
        self._kube.patch(f"{LLMDS}/all", json={"spec": spec}, headers=MERGE).raise_for_status()
        for kind in ("horizontalpodautoscalers", "serviceaccounts", "persistentvolumeclaims"):
            wait_for(f"{kind} gone", lambda k=kind: self._leaves(k))

    def makes_groups_and_a_single_pod_again(self) -> None:
        self._kube.patch(f"{LLMDS}/all", json={"spec": GROUPS}, headers=MERGE).raise_for_status()
        wait_for("no Deployment", lambda: self._leaves("deployments"))
        path = f"{CHILDREN['statefulsets']}statefulsets/all-0"
        wait_for("a group", lambda: self._kube.get(path).is_success)
        self.puts_right("groupscales")
        self.puts_right("statefulsets", "all-0")
        self._loses_a_member(self._kube.get(path).json()["spec"]["template"])
        body = {"spec": {"parallelism": None}}
        self._kube.patch(f"{LLMDS}/all", json=body, headers=MERGE).raise_for_status()
        for kind, name in (("statefulsets", "all-0"), ("groupscales", "all"), ("services", "all-members")):
            wait_for(f"no {kind}", lambda k=kind, n=name: self._leaves(k, n))
        wait_for("a Deployment", lambda: not self._leaves("deployments"))

    def _loses_a_member(self, template: dict[str, Any]) -> None:
        accounts, pods = "/api/v1/namespaces/default/serviceaccounts", "/api/v1/namespaces/default/pods"
        account = {"metadata": {"name": template["spec"]["serviceAccountName"]}}
        self._kube.post(accounts, json=account).raise_for_status()
        for name, node in (("all-0-0", None), ("all-0-1", "of-nobody")):  # where no kubelet ever ends it
            meta, spec = {**template["metadata"], "name": name}, {**template["spec"], "nodeName": node}
            self._kube.post(pods, json={"metadata": meta, "spec": spec}).raise_for_status()
        self._kube.delete(f"{pods}/all-0-1").raise_for_status()
        wait_for("no leader", lambda: self._kube.get(f"{pods}/all-0-0").status_code == 404)

    def _leaves(self, kind: str, name: str = "all") -> bool:
        """Some have a finalizer, which nobody takes away where no controllers run."""
        found = self._kube.get(f"{CHILDREN[kind]}{kind}/{name}")
        return found.status_code == 404 or "deletionTimestamp" in found.json()["metadata"]

    def looks_at_who_has_its_name(self) -> None:
        """For each kind one resource, of which this child's name is taken."""
        for kind, base in CHILDREN.items():
            own = self._kube.get(f"{base}{kind}/all")
            found = own.json() if own.is_success else FOREIGN[kind]
            name = f"taken-{kind}-0" if kind == "statefulsets" else f"taken-{kind}"
            meta = {"name": name, "namespace": "default"}
            spec = {k: v for k, v in found.get("spec", {}).items() if not k.startswith("clusterIP")}
            body = {**TYPES.get(kind, {}), **({"spec": spec} if spec else {}), "metadata": meta}
            self._kube.post(base + kind, json=body).raise_for_status()
            self._kube.post(LLMDS, json=model(f"taken-{kind}", **of_kind(kind))).raise_for_status()
            wait_for(f"{kind} to be told", lambda k=kind: self.reason(f"taken-{k}") == "NameTaken")

    def tells_a_repair_twice(self) -> None:
        """The second time the event is counted up; both times it asks whether the resource is still there."""
        events = "/api/v1/namespaces/default/events"
        for count in (1, 2):
            path = f"{CHILDREN['deployments']}deployments/all"
            self._kube.delete(path).raise_for_status()
            wait_for("a repair", lambda p=path: self._kube.get(p).is_success)

            def told(times: int = count) -> bool:
                items = self._kube.get(events).json()["items"]
                return any(e["reason"] == "Repaired" and e.get("count") == times for e in items)

            wait_for("the event", told)
