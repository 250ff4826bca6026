"""How a process of the router runs: log, descriptors, event loop, exit codes."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections.abc import Callable, Coroutine

from octavo_router.errors import SettingsError
from octavo_router.settings import Settings


def run_router(settings: Settings, make: Callable[[], Coroutine[None, None, int]]) -> None:
    """Runs what `make` makes, and ends the process with its code; 2: a wrong setting, 1: a port is taken."""
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=settings.log_level.upper(), format=form)
    _allow_many_connections()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(make())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        code = 2
    except OSError as error:
        sys.stderr.write(f"The router cannot start: {error}.\n")
        code = 1
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed; it is worth about a tenth."""
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
