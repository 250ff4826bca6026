"""What Prometheus Operator makes of monitors: a configuration of Prometheus.

Debian builds Prometheus without its discovery in Kubernetes: the pods come from a file, with the labels that
the discovery would give them. All relabelling is Prometheus' own.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

POD_LABELS = {"namespace": "__meta_kubernetes_namespace", "pod": "__meta_kubernetes_pod_name"}


def configuration(monitors: list[dict[str, Any]], targets: Path, rules: Path) -> str:
    """Scrapes and evaluates every second."""
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [scrape(monitor, targets) for monitor in monitors],
        }
    )


def write_targets(pods: Iterable[dict[str, Any]], file: Path) -> None:
    """One target for each port of each pod."""
    found = [
        {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": meta(pod, port["name"])}
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    ]
    file.write_text(json.dumps(found))


def meta(pod: dict[str, Any], port: str) -> dict[str, str]:
    labels = {
        f"__meta_kubernetes_pod_label_{plain(k)}": value for k, value in pod["metadata"]["labels"].items()
    }
    names = {
        POD_LABELS["namespace"]: pod["metadata"]["namespace"],
        POD_LABELS["pod"]: pod["metadata"]["name"],
    }
    return {**labels, **names, "__meta_kubernetes_pod_container_port_name": port}


def scrape(monitor: dict[str, Any], targets: Path) -> dict[str, Any]:
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    chosen = [
        keep(f"__meta_kubernetes_pod_label_{plain(label)}", value)
        for label, value in spec["selector"]["matchLabels"].items()
    ]
    chosen += [
        keep(POD_LABELS["namespace"], name) for name in spec["namespaceSelector"].get("matchNames", [])
    ]
    port = keep("__meta_kubernetes_pod_container_port_name", endpoint["port"])
    usual = [{"source_labels": [source], "target_label": name} for name, source in POD_LABELS.items()]
    own = [{snake(key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
    return {
        "job_name": monitor["metadata"]["name"],
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(targets)]}],
        "relabel_configs": [*chosen, port, *usual, *own],
    }


def keep(label: str, value: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": re.escape(value), "action": "keep"}


def plain(label: str) -> str:
    return re.sub("[^a-zA-Z0-9]", "_", label)


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
