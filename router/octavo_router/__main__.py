"""The command `octavo-router`."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Annotated

import typer

from octavo_router.errors import SettingsError
from octavo_router.settings import Settings


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"octavo-router {importlib.metadata.version('octavo')}")
        raise typer.Exit


def serve(
    static: Annotated[
        Path | None, typer.Option(help="YAML file of models and URLs, instead of Kubernetes.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the OpenAI API.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of /healthz, /readyz and /metrics.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port, one a core.")] = None,
    watch_namespaces: Annotated[
        str | None, typer.Option(help="Namespaces, comma-separated; empty: all.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Serves one OpenAI endpoint for all models. Every OCTAVO_* variable of docs/router.md works too."""
    from octavo_router.loop import run_router
    from octavo_router.service import Service
    from octavo_router.workers import Supervisor

    try:
        settings = Settings.load(
            os.environ,
            host=host,
            port=port,
            admin_port=admin_port,
            workers=workers,
            watch_namespaces=watch_namespaces,
            log_level=log_level,
        )
    except SettingsError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    several = settings.workers > 1
    run_router(settings, lambda: (Supervisor if several else Service)(settings, static).run())


def main() -> None:
    typer.run(serve)


if __name__ == "__main__":
    main()
