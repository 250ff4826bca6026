"""The command `octavo-router`."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated

import typer

from octavo_router.errors import SettingsError
from octavo_router.settings import Settings


def serve(
    static: Annotated[
        Path | None, typer.Option(help="YAML file of models and URLs, instead of Kubernetes.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the OpenAI API.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of /healthz, /readyz and /metrics.")] = None,
    watch_namespaces: Annotated[
        str | None, typer.Option(help="Namespaces, comma-separated; empty: all.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serves one OpenAI endpoint for all models. Every OCTAVO_* variable of docs/router.md works too."""
    from octavo_router.service import Service

    try:
        settings = Settings.load(
            os.environ,
            host=host,
            port=port,
            admin_port=admin_port,
            watch_namespaces=watch_namespaces,
            log_level=log_level,
        )
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
        _allow_many_connections()
        _run(Service(settings, static).run())
    except SettingsError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"The router cannot start: {error}.", err=True)
        raise typer.Exit(1) from None


def _run(main: Coroutine[None, None, None]) -> None:
    """Runs on uvloop where it is installed; it is worth about a tenth."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _allow_many_connections() -> None:
    """A stream holds two descriptors, and the usual soft limit of 1,024 is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    typer.run(serve)


if __name__ == "__main__":
    main()
