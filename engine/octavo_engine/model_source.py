"""Where a model's files lie: a folder, a .gguf file, or ``package://NAME[/FILE]`` (not imported)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from octavo_engine.errors import ModelNotFound

PACKAGE_SCHEME = "package://"
FILE_SCHEME = "file://"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The resolved source: ``folder`` with a config.json, and ``gguf`` when the weights are one GGUF file."""

    folder: Path
    gguf: Path | None = None

    @property
    def config_json(self) -> Path:
        return self.folder / "config.json"


def resolve(source: str) -> ModelFiles:
    """Find the files of ``source``. Raises :class:`ModelNotFound` saying what was looked at."""
    if source.startswith(PACKAGE_SCHEME):
        return _from_package(source.removeprefix(PACKAGE_SCHEME))
    return _from_path(Path(source.removeprefix(FILE_SCHEME)).expanduser(), source)


def _from_package(reference: str) -> ModelFiles:
    name, _, inner = reference.partition("/")
    folder = package_folder(name)
    if not inner:
        return _inside(folder, f"package {name!r}")
    path = (folder / inner).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelNotFound(
            f"package://{reference} points outside the package {name!r}; name a file inside it."
        )
    return _from_path(path, f"{PACKAGE_SCHEME}{reference}")


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it; dashes may stand for underscores."""
    module = name.replace("-", "_")
    if not module.isidentifier():
        raise ModelNotFound(
            f"package://{name} does not name a package; write package://NAME or package://NAME/FILE."
        )
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise ModelNotFound(
            f"Package {name!r} is not installed in this environment (looked for the module {module!r}); "
            f"install it (pip install {name}) or name a folder or a .gguf file."
        )
    return Path(locations[0])


def _from_path(path: Path, source: str) -> ModelFiles:
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelNotFound(
                f"{source} is a file but not a .gguf file; name a .gguf file or a model folder."
            )
        return ModelFiles(path.parent, path)
    if not path.is_dir():
        raise ModelNotFound(f"{source} does not exist{_nearest(path)}; name a model folder or a .gguf file.")
    return _inside(path, source)


def _inside(folder: Path, what: str) -> ModelFiles:
    """A folder is a model when it has a config.json, or else exactly one GGUF file."""
    if (folder / "config.json").is_file():
        return ModelFiles(folder)
    found = sorted(folder.glob("*.gguf"))
    if len(found) == 1:
        return ModelFiles(folder, found[0])
    if found:
        names = ", ".join(path.name for path in found)
        raise ModelNotFound(f"{what} holds several GGUF files ({names}); add /FILE to choose one.")
    raise ModelNotFound(f"{what} holds neither a config.json nor a .gguf file ({_listing(folder)}).")


def _nearest(path: Path) -> str:
    parent = next((p for p in path.parents if p.is_dir()), None)
    return f" ({parent}: {_listing(parent)})" if parent is not None and parent != Path("/") else ""


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(("__", ".")))
    return (
        "it is empty"
        if not names
        else "it holds " + ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    )
