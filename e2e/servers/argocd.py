"""Real Argo CD (application-controller and repo-server) beside a cluster, and a Git server to sync from."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.container_parts import debian_release, unpack
from e2e.cluster.go_programs import BUILDS, program
from e2e.kubectl import Kubectl
from e2e.servers.processes import free_port
from e2e.waiting import wait_for
from images.cache import key_of, made_once
from images.commands import run

HOST = "127.0.0.1"
NAMESPACE = "argocd"
REDIS = ("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1")
AUTHOR = ("-c", "user.name=tests", "-c", "user.email=tests@example.com")
LOOK_SECONDS = "3"  # between two looks at Git; Argo CD's own default is three minutes
# What Argo CD's installation brings beside its programs; the key signs sessions that nobody opens.
BASICS: tuple[dict[str, object], ...] = (
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "argocd-secret", "labels": {"app.kubernetes.io/part-of": "argocd"}},
        "stringData": {"server.secretkey": "unused"},
    },
    {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default"},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    },
)


def argocd_parts() -> None:
    """Build and fetch what `argocd` runs.

    Raises:
        BuildError: it cannot be built, or Redis cannot be fetched.
    """
    program("argocd")
    redis_parts()


def redis_parts() -> Path:
    """The folder in which Debian's Redis lies unpacked, fetched on first use.

    Raises:
        BuildError: this is not a Debian, or a package cannot be fetched.
    """

    def make(root: Path) -> None:
        with tempfile.TemporaryDirectory() as downloads:
            unpack(REDIS, Path(downloads), root)

    return made_once("container-parts", key_of([debian_release(), *REDIS]), make)


@dataclass(frozen=True)
class Repository:
    """A Git repository at `url`, changed by committing into its only branch, main."""

    work: Path
    url: str

    def commit(self, files: Mapping[str, str | None]) -> None:
        """Write these files, or remove those that are None, and commit that."""
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)
        run(["git", "add", "--all"], cwd=self.work)
        run(["git", *AUTHOR, "commit", "--quiet", "--message", "a change"], cwd=self.work)


@contextmanager
def git_server(folder: Path) -> Iterator[Repository]:
    """`git daemon` over one new repository."""
    work = folder / "git" / "models"
    run(["git", "init", "--quiet", "--initial-branch=main", work])
    port = free_port(HOST)
    words = ["git", "daemon", f"--listen={HOST}", f"--port={port}", "--export-all", "--reuseaddr"]
    with _running("git", [*words, f"--base-path={folder / 'git'}"], folder, {}):
        yield Repository(work, f"git://{HOST}:{port}/models")


@contextmanager
def argocd(kubectl: Kubectl, folder: Path, *config: Path) -> Iterator[None]:
    """Argo CD over the cluster; `config`: manifests of its own settings, applied before it starts.

    Raises:
        BuildError: it cannot be built, or Redis cannot be fetched.
        ClusterError: the cluster refuses its resources.
    """
    _install(kubectl, config)
    port, repo, metrics, repo_metrics = (str(free_port(HOST)) for _ in range(4))
    home = {**_environment(folder), "KUBECONFIG": kubectl.environment["KUBECONFIG"]}
    common = ["--redis", f"{HOST}:{port}"]
    repo_server = ["--address", HOST, "--port", repo, "--metrics-port", repo_metrics, "--disable-tls"]
    repo_server += ["--revision-cache-expiration", "1s"]
    controller = ["--namespace", NAMESPACE, "--repo-server", f"{HOST}:{repo}", "--repo-server-plaintext"]
    controller += ["--app-resync", LOOK_SECONDS, "--self-heal-timeout-seconds", "1"]
    controller += ["--metrics-port", metrics]
    binary = str(program("argocd"))
    with ExitStack() as processes:
        start = processes.enter_context
        start(_redis(folder, port))
        name = {"ARGOCD_BINARY_NAME": "argocd-repo-server"}
        start(_running("repo-server", [binary, *common, *repo_server], folder, {**home, **name}))
        name = {"ARGOCD_BINARY_NAME": "argocd-application-controller"}
        start(_running("controller", [binary, *common, *controller], folder, {**home, **name}))
        yield


def _install(kubectl: Kubectl, config: Sequence[Path]) -> None:
    module = next(build.module for build in BUILDS if build.name == "argocd")
    source = run(["go", "list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-cd/v2"], cwd=module).strip()
    crds = Path(source, "manifests", "crds")
    for name in ("application-crd.yaml", "appproject-crd.yaml"):
        kubectl("apply", "--server-side", "-f", str(crds / name))
    kinds = ("api-resources", "--api-group=argoproj.io", "-o", "name")
    wait_for("Argo CD's kinds", lambda: len(kubectl(*kinds).split()) == 2)
    kubectl("create", "namespace", NAMESPACE)
    kubectl.apply(*BASICS, namespace=NAMESPACE)
    for path in config:
        kubectl("apply", "--server-side", "-f", str(path))


def _environment(folder: Path) -> dict[str, str]:
    """Its files below `folder`; what it takes for its own cluster is the one of KUBECONFIG."""
    folders = {
        "ARGOCD_TLS_DATA_PATH": "tls",
        "ARGOCD_SSH_DATA_PATH": "ssh",
        "ARGOCD_GPG_DATA_PATH": "gpg",
        "ARGOCD_GNUPGHOME": "gnupg",
        "ARGOCD_PLUGINSOCKFILEPATH": "plugins",
        "TMPDIR": "tmp",
    }
    for name in folders.values():
        (folder / name).mkdir(mode=0o700)
    paths = {variable: str(folder / name) for variable, name in folders.items()}
    return {**paths, "ARGOCD_GPG_ENABLED": "false", "ARGOCD_FAKE_IN_CLUSTER": "true"}


@contextmanager
def _redis(folder: Path, port: str) -> Iterator[None]:
    root = redis_parts()
    libraries = {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    words = [
        str(root / "usr/bin/redis-server"),
        "--bind",
        HOST,
        "--port",
        port,
        "--save",
        "",
        "--dir",
        folder,
    ]
    with _running("redis", [str(word) for word in words], folder, libraries):
        yield


@contextmanager
def _running(
    name: str, words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a log `NAME.log` in `folder`; one that ends by itself is told with its last words."""
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        yield process
        assert process.poll() is None, f"{name} ended: {log.read_text()[-2000:]}"
    finally:
        process.terminate()
        process.wait(20)
