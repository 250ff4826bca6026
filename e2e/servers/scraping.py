"""What Prometheus Operator makes of monitors: a configuration of Prometheus.

Debian builds Prometheus without its discovery in Kubernetes: the targets come from a file, with the labels
that the discovery would give them. All relabelling is Prometheus' own.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
META = "__meta_kubernetes_"
# What either kind calls its endpoints, what it selects by, and where its port's name stands.
KINDS = {
    "PodMonitor": ("podMetricsEndpoints", "pod", "pod_container_port_name"),
    "ServiceMonitor": ("endpoints", "service", "endpoint_port_name"),
}


def configuration(monitors: Iterable[Object], targets: Path, rules: Object) -> str:
    """Scrapes and evaluates every second; `rules` are a PrometheusRule's spec."""
    found = targets.with_name("rules.yaml")
    found.write_text(yaml.safe_dump(rules))
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(found)],
            "scrape_configs": [scrape(monitor, targets) for monitor in monitors],
        }
    )


def scrape(monitor: Object, targets: Path) -> Object:
    """One job."""
    endpoints, selected, port_name = KINDS[monitor["kind"]]
    spec = monitor["spec"]
    (endpoint,) = spec[endpoints]
    chosen = [
        keep(f"{selected}_label_{plain(label)}", [value])
        for label, value in spec["selector"]["matchLabels"].items()
    ]
    if names := spec["namespaceSelector"].get("matchNames"):
        chosen.append(keep("namespace", names))
    usual = [
        {"source_labels": [META + source], "target_label": name}
        for name, source in (("namespace", "namespace"), ("pod", "pod_name"), ("service", "service_name"))
    ]
    own = [{snake(key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
    return {
        "job_name": monitor["metadata"]["name"],
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
        "relabel_configs": [*chosen, keep(port_name, [endpoint["port"]]), *usual, *own],
    }


def write_targets(targets: Iterable[Object], file: Path) -> None:
    """Prometheus reads them again when the file is another one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(list(targets)))
    fresh.rename(file)


def pod_targets(pods: Iterable[Object]) -> Iterator[Object]:
    """One for each port of each pod."""
    for pod in pods:
        for port in ports(pod):
            yield target(pod, port["containerPort"], {"pod_container_port_name": port.get("name", "")})


def service_targets(
    services: Iterable[Object], slices: Iterable[Object], pods: Iterable[Object]
) -> Iterator[Object]:
    """One for each port of each Service and each pod behind it."""
    known = {key(service["metadata"]): service for service in services}
    running = {key(pod["metadata"]): pod for pod in pods}
    for each in slices:
        namespace = each["metadata"]["namespace"]
        service = known.get((namespace, each["metadata"]["labels"]["kubernetes.io/service-name"]))
        for endpoint in each.get("endpoints") or ():
            pod = running.get((namespace, endpoint.get("targetRef", {}).get("name")))
            if service and pod:
                names = {"service_name": service["metadata"]["name"], **labels("service", service)}
                for port in each.get("ports") or ():
                    yield target(pod, port["port"], {**names, "endpoint_port_name": port.get("name", "")})


def target(pod: Object, port: int, more: dict[str, str]) -> Object:
    namespace, name = key(pod["metadata"])
    found = {"namespace": namespace, "pod_name": name, **labels("pod", pod), **more}
    address = f"{pod['status']['podIP']}:{port}"
    return {"targets": [address], "labels": {META + label: value for label, value in found.items()}}


def labels(kind: str, item: Object) -> dict[str, str]:
    given = item["metadata"].get("labels", {})
    return {f"{kind}_label_{plain(label)}": value for label, value in given.items()}


def ports(pod: Object) -> list[Object]:
    """None of a pod that has no address, or no longer."""
    if not pod["status"].get("podIP") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return []
    return [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]


def key(metadata: Object) -> tuple[str, str]:
    return metadata["namespace"], metadata["name"]


def keep(label: str, values: list[str]) -> Object:
    regex = "|".join(map(re.escape, values))
    return {"source_labels": [META + label], "regex": regex, "action": "keep"}


def plain(label: str) -> str:
    return re.sub("[^a-zA-Z0-9]", "_", label)


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
