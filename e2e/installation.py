"""Octavo on a cluster: its images into the nodes, its chart into the cluster."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.cluster import Cluster
from e2e.cluster.go_programs import program
from e2e.kubectl import Kubectl
from images.base import MOUNTED_SITE
from images.build import build
from images.commands import run
from images.errors import BuildError
from images.parts import ENGINE_THIN, OPERATOR, REGISTRY, REPOSITORY, ROUTER, version

NAMESPACE = "octavo-system"
CHART = REPOSITORY / "helm" / "octavo"
RELEASE = "octavo"
TIMEOUT = "3m"


@dataclass(frozen=True)
class LocalImages:
    """The images for a cluster on this machine, and the folder of libraries that its engine pods mount."""

    archives: tuple[Path, ...]
    engine_site: Path

    @classmethod
    def build(cls, say: Callable[[str], None] = print) -> "LocalImages":
        """Build what has changed.

        Raises:
            BuildError: something cannot be fetched or built.
        """
        archives = tuple(build(part, say) for part in (OPERATOR, ROUTER, ENGINE_THIN))
        return cls(archives, ENGINE_THIN.site(say))

    def values(self) -> dict[str, Any]:
        """The chart's values: images by their local names, libraries mounted into every engine pod.

        Pods are annotated with their image's content, so that an upgrade of the same version rolls them.
        """
        operator, router, engine = ({"octavo-image": path.stem} for path in self.archives)
        return {
            "image": {"registry": REGISTRY, "tag": version(), "pullPolicy": "Never"},
            "engine": {"image": ENGINE_THIN.image},
            "router": {"podAnnotations": router, "replicas": 1},
            "operator": {
                "podAnnotations": operator,
                "podDefaults": {
                    "metadata": {"annotations": engine},
                    "volumes": [
                        {"name": "site", "hostPath": {"path": str(self.engine_site), "type": "Directory"}}
                    ],
                    "volumeMounts": [{"name": "site", "mountPath": MOUNTED_SITE, "readOnly": True}],
                },
            },
        }


def load_and_install(cluster: Cluster, images: LocalImages, *more: dict[str, Any]) -> None:
    """Load the images into all nodes and install or upgrade the chart; `more` values win over the local ones.

    Raises:
        ClusterError: an image cannot be loaded.
        BuildError: helm failed, or the pods were not ready in time.
    """
    cluster.load(images.archives)
    install(Kubectl(cluster.kubeconfig), images.values(), *more)


def install(kubectl: Kubectl, *values: dict[str, Any]) -> None:
    """Install or upgrade the chart and wait until its pods are ready; later values win.

    Raises:
        BuildError: helm failed, or the pods were not ready in time.
    """
    words: list[str | Path] = ["upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE]
    words += ["--create-namespace", "--wait", "--timeout", TIMEOUT]
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate(values):
            file = Path(folder, f"{number}.json")
            file.write_text(json.dumps(each))
            words += ["--values", file]
        try:
            run([program("helm"), *words], env=kubectl.environment)
        except BuildError as error:
            raise BuildError(f"{error}{unready(kubectl)}") from error


@contextmanager
def changed(kubectl: Kubectl, values: dict[str, Any]) -> Iterator[None]:
    """The installed release with these values over its own while the block runs, and then as it was.

    Raises:
        BuildError: there is no release, helm failed, or the pods were not ready in time.
    """
    words: list[str | Path] = [program("helm"), "get", "values", RELEASE, "--namespace", NAMESPACE]
    own = json.loads(run([*words, "--output", "json"], env=kubectl.environment))
    install(kubectl, own, values)
    try:
        yield
    finally:
        install(kubectl, own)


def unready(kubectl: Kubectl) -> str:
    """What Octavo's pods that are not ready said last; empty when all are."""
    said = []
    for pod in kubectl.items("pods", namespace=NAMESPACE):
        statuses = pod["status"].get("containerStatuses", [])
        if statuses and not all(status["ready"] for status in statuses):
            name = pod["metadata"]["name"]
            log = kubectl("logs", name, "-n", NAMESPACE, "--tail=1").strip()
            said.append(f"; pod {name} is not ready and said last: {log or 'nothing'}")
    return "".join(said)


def uninstall(kubectl: Kubectl) -> None:
    """Remove the release; the chart keeps its CRDs, and with them the models.

    Raises:
        BuildError: there is no such release.
    """
    run([program("helm"), "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"], env=kubectl.environment)
