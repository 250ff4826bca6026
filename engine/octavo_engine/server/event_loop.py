"""The event loop that servers run on."""

from __future__ import annotations

import asyncio
from typing import Any


def runner() -> asyncio.Runner:
    """uvloop's where there is one."""
    return asyncio.Runner(loop_factory=_factory())


def _factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop
