"""What each image holds."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images.base import (
    CODE,
    MOUNTED_SITE,
    PYTHON,
    SITE,
    USER,
    base_key,
    base_layer,
    base_root,
    compile_bytecode,
)
from images.cache import key_of, made_once
from images.commands import run
from images.layers import write_layer

REPOSITORY = Path(__file__).parents[1]
REGISTRY = "octavo.local"  # a name and no host: these images are loaded, not pulled
ENTRYPOINT = Path(__file__).with_name("entrypoint.py")
PLATFORM = "x86_64-manylinux_2_36"


def version() -> str:
    """The version of this repository."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return str(project["version"])


@dataclass(frozen=True)
class Part:
    """One of the three parts of Octavo, or a variant of it: its code, and the libraries it is pinned to."""

    name: str
    code: str
    locks: tuple[str, ...]
    site_is_mounted: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def image(self) -> str:
        """The image's name and tag."""
        return f"{REGISTRY}/{self.name}:{version()}"

    @property
    def command(self) -> str:
        """The command of the part, its image's entrypoint."""
        return f"octavo-{self.code}"

    @property
    def package(self) -> Path:
        """The folder of its Python package."""
        return REPOSITORY / self.code / f"octavo_{self.code}"

    @property
    def config(self) -> dict[str, object]:
        """How its container runs."""
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{CODE}:{MOUNTED_SITE if self.site_is_mounted else SITE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "HOME": "/tmp",
        }
        return {
            "User": f"{USER}:{USER}",
            "WorkingDir": "/tmp",
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Entrypoint": [f"/usr/local/bin/{self.command}"],
        }

    @property
    def site_key(self) -> str:
        """Changes whenever its libraries do."""
        return key_of([base_key(), PLATFORM, SITE, *(lock.read_bytes() for lock in self._lock_files())])

    def site(self, say: Callable[[str], None]) -> Path:
        """The folder with its pinned libraries.

        Raises:
            BuildError: a library cannot be fetched, or its hash is not the pinned one.
        """

        def make(folder: Path) -> None:
            say(f"fetching the libraries of {self.command} (once)")
            locks = [word for lock in self._lock_files() for word in ("-r", str(lock))]
            target: list[str | Path] = [
                "--target",
                folder,
                "--python-version",
                PYTHON,
                "--python-platform",
                PLATFORM,
            ]
            strict = ["--only-binary", ":all:", "--require-hashes", "--no-deps", "--quiet"]
            run([sys.executable, "-m", "uv", "pip", "install", *target, *strict, *locks])
            compile_bytecode(base_root(say), folder, SITE)

        return made_once("images", f"site-{self.code}-{self.site_key}", make)

    def layers(self, say: Callable[[str], None]) -> list[Path]:
        """Its layers, from what changes least to what changes most.

        Raises:
            BuildError: something cannot be fetched.
        """
        layers = [base_layer(say)]
        if not self.site_is_mounted:
            site = self.site(say)
            name = f"site-{self.code}-{key_of([self.site_key, *self.left_out])}.tar"
            at, skip = SITE.strip("/"), self.left_out
            layers.append(made_once("images", name, lambda out: write_layer(out, site, at, skip)))
        return [*layers, self._code_layer(say)]

    def _code_layer(self, say: Callable[[str], None]) -> Path:
        sources = [
            path
            for path in sorted(self.package.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
        contents = [
            text for path in sources for text in (str(path.relative_to(REPOSITORY)), path.read_bytes())
        ]
        key = f"code-{self.code}-{key_of([base_key(), version(), ENTRYPOINT.read_bytes(), *contents])}"

        def make(root: Path) -> None:
            code = root / CODE.strip("/")
            for source in sources:
                target = code / source.relative_to(self.package.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
            compile_bytecode(base_root(say), code, CODE)
            self._write_metadata(code / f"octavo-{version()}.dist-info")
            (root / "usr/local/bin").mkdir(parents=True)
            shutil.copy(ENTRYPOINT, root / "usr/local/bin" / self.command)

        root = made_once("images", key, make)
        return made_once("images", f"{key}.tar", lambda out: write_layer(out, root))

    def _write_metadata(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: octavo\nVersion: {version()}\n")

    def _lock_files(self) -> list[Path]:
        return [REPOSITORY / "requirements" / f"{name}.lock" for name in self.locks]


OPERATOR = Part("octavo-operator", "operator", ("operator",))
ROUTER = Part("octavo-router", "router", ("router",))
# torch comes built for CUDA and will not be imported without some of its libraries; no CPU ever loads these.
UNUSED_ON_CPU = (
    "triton*",
    "nvidia/cudnn/lib/libcudnn_*",
    "nvidia/cu13/lib/lib*.a",
    "nvidia/cu13/lib/libcusolver*",
    "nvidia/cu13/lib/libnvperf*",
    "nvidia/cu13/lib/libnvrtc*",
    "nvidia/nvshmem/lib/libnvshmem_device*",
    "nvidia/*/include",
)
# requirements/ray.lock is the engine with Ray: groups of pods need it.
ENGINE = Part("octavo-engine", "engine", ("ray", "models"), left_out=UNUSED_ON_CPU)
# Without libraries: a local cluster's nodes mount them from a folder of this machine, which takes no time.
ENGINE_THIN = Part("octavo-engine-thin", "engine", ("ray", "models"), site_is_mounted=True)
PARTS = {part.name: part for part in (OPERATOR, ROUTER, ENGINE, ENGINE_THIN)}
