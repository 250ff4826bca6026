"""Build images as OCI archives: `python -m images.build [NAME...]` prints their paths."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from images.cache import keep_newest, key_of, made_once
from images.errors import BuildError
from images.oci import Layer, write_archive
from images.parts import ENGINE, OPERATOR, PARTS, ROUTER, Part

KEPT_ARCHIVES = 2
KEPT_LAYERS = 4  # a cluster that is up may still mount an older one


def build(part: Part, say: Callable[[str], None] = print) -> Path:
    """The image of `part` as an OCI archive, built from cached layers; only what has changed is built anew.

    Raises:
        BuildError: a tool, a package or a library cannot be had.
    """
    layers = [_digested(path) for path in part.layers(say)]
    key = key_of([part.image, repr(part.config), *(layer.sha256 for layer in layers)])

    def make(out: Path) -> None:
        say(f"writing {part.image}")
        write_archive(out, part.image, layers, part.config)

    archive = made_once("images", f"{part.name}-{key}.tar", make)
    keep_newest("images", part.name, KEPT_ARCHIVES)
    for layer in ("code", "site"):
        keep_newest("images", f"{layer}-{part.code}", KEPT_LAYERS)
    return archive


def _digested(layer: Path) -> Layer:
    """Reading a layer of gigabytes takes seconds, so its digest is kept beside it."""

    def make(out: Path) -> None:
        out.write_text(Layer.of(layer).sha256)

    return Layer(layer, made_once("images", f"{layer.name}.sha256", make).read_text())


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; default: the first three.")
    ] = None,
) -> None:
    """Build images, and print where their archives lie."""
    chosen = names or [part.name for part in (OPERATOR, ROUTER, ENGINE)]
    if unknown := [name for name in chosen if name not in PARTS]:
        raise BuildError(f"there is no image {unknown[0]!r}; there are {', '.join(PARTS)}")
    for name in chosen:
        typer.echo(build(PARTS[name], say=lambda text: typer.echo(text, err=True)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except BuildError as error:
        sys.exit(f"error: {error}")
