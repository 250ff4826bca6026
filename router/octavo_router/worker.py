"""A worker process: `python -m octavo_router.worker FD`, started by the supervisor with their socket pair."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from octavo_router.channel import read_start
from octavo_router.loop import run_router
from octavo_router.service import Service
from octavo_router.settings import Settings


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    start = read_start(channel)
    settings = Settings(**start.settings)
    static = None if start.static is None else Path(start.static)
    run_router(settings, lambda: Service(settings, static, channel).run())


if __name__ == "__main__":
    main()
