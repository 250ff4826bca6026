"""Streams go on through every disruption that Kubernetes knows; each one of them is counted.

The engines are whole but for the model: a paced runner takes its place, so that two cores carry the streams.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from e2e.autoscaling import down_at_once
from e2e.cluster.cluster import Cluster
from e2e.conftest import wait_ready
from e2e.figures import keep
from e2e.installation import NAMESPACE, LocalImages, install
from e2e.killing import kill_container
from e2e.kubectl import Kubectl
from e2e.open_loop import Load, OpenLoop, Outcome, open_loop
from e2e.paced_model import PACED
from e2e.router_logs import ROUTERS, RouterLogs, router_logs
from e2e.waiting import wait_for

RATE = 8.0  # streams a second
TOKENS = 80  # at four a second: 20 s
HEARD_SECONDS = 1.0  # from a pod's deletion to the last request that a router sends it
ENGINE_KILLED = "kill -9 of an engine"
PODS = "octavo.dev/deployment=steady"
UNWRITTEN_SECONDS = 2.0  # routers write their lines every 0.25 s, and a killed one's last ones never
LEAVING = '{.status.podIP} {.metadata.deletionTimestamp}{"\\n"}'
SPEC = {
    **PACED,
    "replicas": 4,
    "drainSeconds": 60,
    "rollout": {"maxSurge": "100%"},
    "routing": {"policy": "least-load"},
    "resources": {"cpu": "50m", "memory": "1Gi"},
}
AUTOSCALING = {"minReplicas": 2, "maxReplicas": 3, "concurrency": 1000, "behavior": down_at_once(1)}


@dataclass
class Disruptions:
    """What is done to `namespace`'s model while streams run, and when."""

    kubectl: Kubectl
    cluster: Cluster
    namespace: str
    streams: OpenLoop
    times: dict[str, tuple[float, float]] = field(default_factory=dict)
    router_dead: float = 0.0

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Note when this one began and ended."""
        began = time.time()
        yield
        self.times[name] = (began, time.time())
        print(f"\n{name}: {time.time() - began:.0f} s, {self.streams.running} streams", flush=True)

    def pods(self) -> dict[str, dict[str, Any]]:
        """The engine pods by name that are not on their way out."""
        found = self.kubectl.items("pods", "-l", PODS, namespace=self.namespace)
        stays = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
        return {pod["metadata"]["name"]: pod for pod in stays}

    def patch(self, spec: dict[str, Any]) -> None:
        """Change the model's spec."""
        words = ["patch", "llmdeployment", "steady", "-n", self.namespace, "--type=merge", "-p"]
        self.kubectl(*words, json.dumps({"spec": spec}))

    def roll_out(self) -> None:
        """A changed spec replaces all pods."""
        old = set(self.pods())
        self.patch({"engine": {"maxNumSeqs": 255}})
        wait_ready(self.kubectl, "steady", self.namespace, seconds=180)
        wait_for("only new pods", lambda: self.pods() and not old & set(self.pods()), seconds=120)

    def scale_down(self) -> None:
        """A person takes one pod of four."""
        self.kubectl("scale", "llmdeployment/steady", "--replicas=3", "-n", self.namespace)
        wait_for("three pods", lambda: len(self.pods()) == 3)

    def scale_down_by_hpa(self) -> None:
        """The HPA takes one pod of three."""
        self.patch({"replicas": None, "autoscaling": AUTOSCALING})
        wait_for("two pods", lambda: len(self.pods()) == 2, seconds=120)

    def drain_node(self) -> None:
        """A node is emptied, which the disruption budgets let happen one pod at a time."""
        node = min(pod["spec"]["nodeName"] for pod in self.pods().values())
        self.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
        self.kubectl("uncordon", node)
        wait_ready(self.kubectl, "steady", self.namespace, seconds=120)

    def kill_engine(self) -> str:
        """An engine dies without a word; the value is its pod's address."""
        victim, pod = min(self.pods().items())
        kill_container(self.cluster, self.kubectl, victim, self.namespace)
        wait_for("a restart", lambda: self.container(victim)["restartCount"])
        wait_for("the engine's return", lambda: self.container(victim)["ready"], seconds=120)
        return str(pod["status"]["podIP"])

    def container(self, pod: str) -> dict[str, Any]:
        """What is known of an engine's container."""
        found: dict[str, Any] = self.pods()[pod]["status"]["containerStatuses"][0]
        return found

    def kill_router(self) -> None:
        """A router replica dies without a word."""
        victim = self.kubectl.items("pods", "-l", ROUTERS, namespace=NAMESPACE)[0]["metadata"]["name"]
        kill_container(self.cluster, self.kubectl, victim, NAMESPACE)
        self.router_dead = time.time()

        def returned() -> bool:
            status = self.kubectl.get("pod", victim, namespace=NAMESPACE)["status"]["containerStatuses"][0]
            return bool(status["restartCount"] and status["ready"])

        wait_for("the router's return", returned, seconds=120)

    def restart_operator(self) -> None:
        """All replicas of the operator are replaced."""
        self.kubectl("rollout", "restart", "deployment/octavo-operator", "-n", NAMESPACE)
        words = ["rollout", "status", "deployment/octavo-operator", "-n", NAMESPACE]
        self.kubectl(*words, "--timeout=120s")


@dataclass(frozen=True)
class Verdict:
    """What became of all streams. `excused`: a killed engine's, if told so, and a killed router's."""

    outcomes: list[Outcome]
    excused: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        """Those that nothing excuses."""
        excused = {outcome.id for outcome in self.excused}
        return [each for each in self.outcomes if each.end != "complete" and each.id not in excused]


def judge(disruptions: Disruptions, logs: RouterLogs, killed_engine: str) -> Verdict:
    """Excuse a stream only if it ran at what was killed: the engine that the log names, or the router."""
    told = logs.requests()
    killed = disruptions.times["kill of a router"][0]
    engine_killed, engine_back = disruptions.times[ENGINE_KILLED]

    def is_excused(outcome: Outcome) -> bool:
        if outcome.end == "error event":
            there = told[outcome.id].get("pod", "").rpartition(":")[0] == killed_engine
            return there and outcome.began < engine_back and outcome.ended > engine_killed
        ran = outcome.began < disruptions.router_dead and outcome.ended > killed
        return outcome.end == "broken" and ran and outcome.id not in told

    outcomes = disruptions.streams.outcomes
    return Verdict(outcomes, [outcome for outcome in outcomes if is_excused(outcome)])


def logged(disruptions: Disruptions) -> set[str]:
    """The complete streams whose lines must be in the logs: all but the last ones before a router's death."""
    last = disruptions.times["kill of a router"][0] - UNWRITTEN_SECONDS
    complete = [outcome for outcome in disruptions.streams.outcomes if outcome.end == "complete"]
    return {each.id for each in complete if not last < each.ended < disruptions.router_dead}


def last_requests(logs: RouterLogs, seen: list[tuple[float, str]]) -> dict[str, float]:
    """For each pod that left: the seconds from its deletion to the last request that a router sent it."""
    leaving: dict[str, float] = {}
    for when, line in seen:
        if len(parts := line.split()) == 2:
            leaving.setdefault(parts[0], when)
    last: dict[str, float] = {}
    for entry in logs.requests().values():
        address = entry.get("pod", "").rpartition(":")[0]
        if address in leaving:
            last[address] = max(last.get(address, -1e9), entry["time"] - leaving[address])
    return last


@pytest.mark.timeout(900)
def test_nothing_is_dropped_by_any_disruption(
    octavo: str,
    deploy: Callable[..., str],
    kubectl: Kubectl,
    cluster: Cluster,
    namespace: str,
    images: LocalImages,
    tmp_path: Path,
) -> None:
    install(kubectl, images.values(), {"router": {"replicas": 2, "accessLog": 1}})
    load = Load(octavo, deploy("steady", **SPEC), TOKENS, RATE)
    watched = kubectl.watched("pods", "-l", PODS, namespace=namespace, show=LEAVING)
    with router_logs(kubectl, tmp_path / "routers") as logs, watched as seen:
        with open_loop(load) as streams:
            disruptions = Disruptions(kubectl, cluster, namespace, streams)
            wait_for("streams", lambda: streams.running > RATE * 10)
            with disruptions.during("rollout of a changed spec"):
                disruptions.roll_out()
            with disruptions.during("manual scale-down"):
                disruptions.scale_down()
            with disruptions.during("scale-down by the HPA"):
                disruptions.scale_down_by_hpa()
            with disruptions.during("drain of a node"):
                disruptions.drain_node()
            with disruptions.during(ENGINE_KILLED):
                killed = disruptions.kill_engine()
            with disruptions.during("kill of a router"):
                disruptions.kill_router()
            with disruptions.during("restart of the operator"):
                disruptions.restart_operator()
            with disruptions.during("helm upgrade"):
                install(kubectl, images.values(), {"router": {"replicas": 2, "accessLog": 1, "workers": 2}})
        expected = logged(disruptions)
        wait_for("the routers' last lines", lambda: expected <= set(logs.requests()), seconds=30)
        verdict = judge(disruptions, logs, killed)
        late = last_requests(logs, seen)
    install(kubectl, images.values())
    report(verdict, late, disruptions)
    assert not verdict.failed, f"{len(verdict.failed)} failed, such as {verdict.failed[0]}"
    assert any(outcome.end == "error event" for outcome in verdict.excused), (
        "no stream ran at the killed engine"
    )
    assert len(late) >= 6, "pods that left: four by the rollout, two by scaling down"
    assert max(late.values()) < HEARD_SECONDS, late
    answers = {(each.prompt, each.text) for each in verdict.outcomes if each.end == "complete"}
    assert len(answers) == len({prompt for prompt, _ in answers}), "the same prompt, the same answer"


def report(verdict: Verdict, late: dict[str, float], disruptions: Disruptions) -> None:
    """Print what became of the streams; with OCTAVO_KEEP_FIGURES=1 it is kept as a figure."""
    ends = Counter(outcome.end for outcome in verdict.outcomes)
    lengths = sorted(each.ended - each.began for each in verdict.outcomes if each.end == "complete")
    reconnected = sum(1 for each in verdict.outcomes if each.refused_connections)
    words = (
        f"{len(verdict.outcomes)} streams, {RATE:g} a second, median {lengths[len(lengths) // 2]:.1f} s, "
        f"through {', '.join(disruptions.times)}; {ends['complete']} complete, {ends['error event']} cut by "
        f"the killed engine with an error event, {ends['broken']} of the killed router, {reconnected} "
        f"connected again; no pod got a request later than {max(0.0, *late.values()):.2f} s after its "
        f"deletion; paced runner, load {os.getloadavg()[0]:.1f}"
    )
    print(f"\n{len(verdict.failed)} failed: {words}", flush=True)
    if os.environ.get("OCTAVO_KEEP_FIGURES"):
        keep("operator", "failed_requests.all_disruptions", len(verdict.failed), "requests", words)
