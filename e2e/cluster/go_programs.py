"""Programs built from pinned Go modules, kept by the content of what they are built from."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_root

TOOLS = Path(__file__).parent / "tools"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
STRIP = "-s -w"


@dataclass(frozen=True)
class GoBuild:
    """One build: the programs it gives and the package they are built from.

    The modules are pinned in `tools/NAME`, or the package names its version.
    """

    name: str
    programs: tuple[str, ...]
    package: str
    rough_seconds: int

    @property
    def module(self) -> Path:
        """The folder that pins this build's modules; not there for a package that names its version."""
        return TOOLS / self.name

    @property
    def key(self) -> str:
        """Changes whenever the build would give other programs."""
        digest = hashlib.sha256(f"{self.package}\n{self.link_flags}".encode())
        for path in sorted(self.module.glob("*")):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the programs are kept."""
        return cache_root() / "programs" / f"{self.name}-{self.key}"

    @property
    def link_flags(self) -> str:
        """Strips debug information; Kubernetes has its version stamped in, as its own build does."""
        if self.name != "kubernetes":
            return STRIP
        version = _required_version(self.module / "go.mod", "k8s.io/kubernetes")
        major, minor, _ = version.removeprefix("v").split(".")
        stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        return " ".join([STRIP, *(f"-X k8s.io/component-base/version.{k}={v}" for k, v in stamps.items())])

    def command(self, out: Path) -> list[str]:
        """The `go` command that puts the programs into the folder `out`."""
        shared = ["-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", self.link_flags]
        if not self.module.exists():
            return ["go", "install", *shared, self.package]
        return ["go", "build", "-mod=readonly", *shared, "-o", f"{out}/", self.package]


BUILDS = (
    GoBuild(
        "kubernetes",
        ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
        "tool",
        260,
    ),
    GoBuild("etcd", ("etcd",), "go.etcd.io/etcd/server/v3", 20),
    GoBuild("coredns", ("coredns",), ".", 40),
    GoBuild("helm", ("helm",), HELM, 60),
    GoBuild("kwok", ("kwok",), "sigs.k8s.io/kwok/cmd/kwok", 60),
)


def program(name: str, say: Callable[[str], None] = print) -> Path:
    """The path of a program, built first when it is not in the cache.

    Raises:
        ClusterError: Go is missing, or the build failed.
    """
    build = next((build for build in BUILDS if name in build.programs), None)
    if build is None:
        known = ", ".join(name for build in BUILDS for name in build.programs)
        raise ClusterError(f"no program {name!r} is built here; there are {known}")
    path = build.folder / name
    if not path.exists():
        _build(build, say)
    return path


def _build(build: GoBuild, say: Callable[[str], None]) -> None:
    require_go()
    with _locked(build.folder), tempfile.TemporaryDirectory(dir=build.folder.parent) as scratch:
        if build.folder.exists():  # another process was building it
            return
        say(f"building {build.name} from Go modules (about {build.rough_seconds} s on two cores, once)")
        out = Path(scratch) / "out"
        out.mkdir()
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(out), "GOFLAGS": ""}
        where = build.module if build.module.exists() else out
        done = subprocess.run(
            build.command(out), cwd=where, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"building {build.name} failed: {done.stderr.strip()[-600:]}")
        _name_like_its_program(build, out)
        shutil.move(out, build.folder)


def _name_like_its_program(build: GoBuild, out: Path) -> None:
    """Go names a program after its package's last part, which is not the program's name for all of them."""
    made = list(out.iterdir())
    if len(build.programs) == 1 and len(made) == 1:
        made[0].rename(out / build.programs[0])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the build lock of `folder`, so that two commands do not build the same at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _required_version(go_mod: Path, module: str) -> str:
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"{go_mod} does not require {module}; put back the file that the repository holds")
    return found[1]


def require_go() -> None:
    """Raise a ClusterError unless a Go that can build all programs is on the PATH."""
    needed = max(_go_directive(path) for path in TOOLS.glob("*/go.mod"))
    wanted = ".".join(map(str, needed))
    if not shutil.which("go"):
        raise ClusterError(f"Go is missing: install Go >= {wanted} and put its bin folder on the PATH")
    told = subprocess.run(
        ["go", "env", "GOVERSION"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if _numbers(told) < needed:
        raise ClusterError(f"Go {told.removeprefix('go')} is too old: install Go >= {wanted}")


def _go_directive(go_mod: Path) -> tuple[int, ...]:
    return _numbers(next(line for line in go_mod.read_text().splitlines() if line.startswith("go ")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))[:2]
