"""Programs built from pinned Go modules, kept by the content of what they are built from."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images.cache import cache_root, key_of, made_once
from images.commands import run
from images.errors import BuildError

TOOLS = Path(__file__).parent / "tools"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
REGISTRY = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
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
    on_demand: bool = False

    @property
    def module(self) -> Path:
        """The folder that pins this build's modules; not there for a package that names its version."""
        return TOOLS / self.name

    @property
    def key(self) -> str:
        """Changes whenever the build would give other programs."""
        sources = (path.read_bytes() for path in sorted(self.module.glob("*")))
        return key_of([self.package, self.link_flags, *sources])

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
    GoBuild("kwok", ("kwok",), "sigs.k8s.io/kwok/cmd/kwok", 60, on_demand=True),
    GoBuild("argocd", ("argocd",), "github.com/argoproj/argo-cd/v2/cmd", 160, on_demand=True),
    GoBuild("registry", ("registry",), REGISTRY, 60, on_demand=True),
    GoBuild("adapter-rules", ("adapter-rules",), ".", 60, on_demand=True),
    GoBuild("versitygw", ("versitygw",), VERSITYGW, 60, on_demand=True),
)


def program(name: str, say: Callable[[str], None] = print) -> Path:
    """The path of a program, built first when it is not in the cache.

    Raises:
        BuildError: Go is missing, or the build failed.
    """
    build = next((build for build in BUILDS if name in build.programs), None)
    if build is None:
        known = ", ".join(name for build in BUILDS for name in build.programs)
        raise BuildError(f"no program {name!r} is built here; there are {known}")
    return made_once("programs", f"{build.name}-{build.key}", lambda out: _build(build, out, say)) / name


def module_folder(module: str) -> Path:
    """Where the files of `MODULE@VERSION` lie, in Go's own cache of modules.

    Raises:
        BuildError: Go is missing, or the module cannot be fetched.
    """
    require_go()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "go.mod").write_text("module fetched\n")
        told = run(["go", "mod", "download", "-json", module], cwd=Path(folder))
    return Path(json.loads(told)["Dir"])


def linked_programs(say: Callable[[str], None] = print) -> Path:
    """A folder with links to all programs that a cluster needs, for a PATH; what is missing is built.

    Raises:
        BuildError: Go is missing, or a build failed.
    """
    folder = cache_root() / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (name for build in BUILDS if not build.on_demand for name in build.programs):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(program(name, say))
    return folder


def _build(build: GoBuild, out: Path, say: Callable[[str], None]) -> None:
    require_go()
    say(f"building {build.name} from Go modules (about {build.rough_seconds} s on two cores, once)")
    out.mkdir()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(out), "GOFLAGS": ""}
    run(build.command(out), cwd=build.module if build.module.exists() else out, env=environment)
    _name_like_its_program(build, out)


def _name_like_its_program(build: GoBuild, out: Path) -> None:
    """Go names a program after its package's last part, which is not the program's name for all of them."""
    made = list(out.iterdir())
    if len(build.programs) == 1 and len(made) == 1:
        made[0].rename(out / build.programs[0])


def _required_version(go_mod: Path, module: str) -> str:
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{go_mod} does not require {module}; put back the file that the repository holds")
    return found[1]


def require_go() -> None:
    """Raise a BuildError unless a Go that can build all programs is on the PATH."""
    needed = max(_go_directive(path) for path in TOOLS.glob("*/go.mod"))
    wanted = ".".join(map(str, needed))
    if not shutil.which("go"):
        raise BuildError(f"Go is missing: install Go >= {wanted} and put its bin folder on the PATH")
    told = run(["go", "env", "GOVERSION"]).strip()
    if _numbers(told) < needed:
        raise BuildError(f"Go {told.removeprefix('go')} is too old: install Go >= {wanted}")


def _go_directive(go_mod: Path) -> tuple[int, ...]:
    return _numbers(next(line for line in go_mod.read_text().splitlines() if line.startswith("go ")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))[:2]
