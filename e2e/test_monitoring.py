"""A real Prometheus scrapes the cluster by the chart's monitors, and tells what is broken in it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e.kubectl import Kubectl
from e2e.paced_model import PACED
from e2e.servers.board import queries
from e2e.servers.prometheus import ask as ask_prometheus
from e2e.servers.prometheus import prometheus, up
from e2e.servers.scraping import configuration, pod_targets, service_targets, write_targets
from e2e.traffic import ask
from e2e.waiting import wait_for
from manifests.render import plain_objects

PARTS = ("octavo-engine", "octavo-router", "octavo-operator")
SOON = "1s"  # what the rules' own times are, promtool tests


def rendered(kind: str, *settings: str) -> list[dict[str, Any]]:
    return [item for item in plain_objects(*settings) if item["kind"] == kind]


def rules() -> dict[str, Any]:
    """The chart's, whose alerts fire soon."""
    (rule,) = rendered("PrometheusRule", "monitoring.rules.enabled=true")
    for group in rule["spec"]["groups"]:
        group["rules"] = [{**alert, "for": SOON} for alert in group["rules"]]
    spec: dict[str, Any] = rule["spec"]
    return spec


def everywhere(kubectl: Kubectl, kind: str) -> list[dict[str, Any]]:
    return kubectl.items(kind, "--all-namespaces")


def targets(kubectl: Kubectl, kind: str) -> list[dict[str, Any]]:
    """What the cluster has for a monitor of this kind to choose from."""
    pods = everywhere(kubectl, "pods")
    if kind == "PodMonitor":
        return list(pod_targets(pods))
    return list(service_targets(everywhere(kubectl, "services"), everywhere(kubectl, "endpointslices"), pods))


def scraped_pods(kubectl: Kubectl) -> set[tuple[str, str]]:
    """Job and pod of every engine, router and operator of the cluster."""
    found = set()
    for part in PARTS:
        pods = kubectl.items("pods", "--all-namespaces", "-l", f"app.kubernetes.io/name={part}")
        found |= {(part, pod["metadata"]["name"]) for pod in pods}
    return found


def wait_until_all_are_up(kubectl: Kubectl, url: str, kind: str, file: Path) -> None:
    """Pods of other cases may still be on their way out."""

    def missing() -> set[tuple[str, str]]:
        write_targets(targets(kubectl, kind), file)
        return scraped_pods(kubectl) ^ up(url)

    wait_for("a target for every pod", lambda: not missing())
    assert {job for job, _ in up(url)} == set(PARTS)


def evaluated(url: str) -> list[dict[str, Any]]:
    """The rules, once each was evaluated."""
    found = [rule for group in ask_prometheus(url, "rules")["groups"] for rule in group["rules"]]
    return found if all(rule["health"] != "unknown" for rule in found) else []


def series(url: str, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask_prometheus(url, "query", query=query)["result"]
    return found


def firing(url: str, alert: str) -> list[dict[str, str]]:
    found = ask_prometheus(url, "alerts")["alerts"]
    return [
        each["labels"] for each in found if each["state"] == "firing" and each["labels"]["alertname"] == alert
    ]


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_pods_are_scraped_and_the_board_has_data(
    kind: str,
    deploy: Callable[..., str],
    openai_client: openai.OpenAI,
    kubectl: Kubectl,
    tmp_path: Path,
) -> None:
    model = deploy("watched", **PACED)
    file = tmp_path / "targets.json"
    write_targets([], file)
    monitors = rendered(kind, "monitoring.monitors.enabled=true", f"monitoring.monitors.kind={kind}")
    with prometheus(tmp_path, configuration(monitors, file, rules())) as url:
        wait_until_all_are_up(kubectl, url, kind, file)
        for _ in range(3):
            assert ask(openai_client, model)
        for title, query in queries():
            wait_for(f"data of {title}: {query}", partial(series, url, query))
        assert series(url, f'octavo_generation_tokens_total{{model="{model}"}} > 0')
        found = wait_for("an evaluation of the rules", partial(evaluated, url))
        assert {rule["health"] for rule in found} == {"ok"}


def test_an_alert_tells_of_a_broken_model_until_it_is_deleted(
    deploy: Callable[..., str], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "targets.json"
    write_targets(targets(kubectl, "PodMonitor"), file)
    monitors = rendered("PodMonitor", "monitoring.monitors.enabled=true")
    with prometheus(tmp_path, configuration(monitors, file, rules())) as url:
        broken = deploy("broken", ready=False, model={"source": "package://llm-smollm3"})

        def told() -> list[dict[str, str]]:
            return [each for each in firing(url, "OctavoModelStalled") if each["model"] == broken]

        (alert,) = wait_for("an alert", told)
        assert alert["severity"] == "critical"
        assert alert["reason"]
        kubectl("delete", "llmdeployment", "broken", "-n", namespace)
        wait_for("no alert", lambda: not told())
