"""``octavo-engine fetch``: download a model into a cache. In a cluster it runs in a pod before the engine."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from pathlib import Path

from octavo_engine.sources.access import Access
from octavo_engine.sources.cache import Cache, default_root
from octavo_engine.sources.fetch import Fetcher
from octavo_engine.sources.health import answering
from octavo_engine.sources.progress import Progress
from octavo_engine.sources.source import parse
from octavo_engine.sources.telling import telling


def add_fetch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="hf://OWNER/NAME[@REVISION][#PATH], s3:// or oci://")
    parser.add_argument("--cache", type=Path, default=None, help="folder; default: $OCTAVO_MODEL_CACHE")
    parser.add_argument("--link", default="", metavar="NAME", help="name of the model's link in the cache")
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help="server to ask instead of the public one"
    )
    parser.add_argument("--region", default="", help="of an S3 bucket")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=None, help="answer /health with the progress meanwhile")


def run_fetch(arguments: argparse.Namespace) -> None:
    """Print the model's folder. Errors: :class:`EngineError`."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")
    signal.signal(signal.SIGTERM, _end)
    access = Access.of_environment(os.environ, arguments.endpoint, arguments.region)
    progress = Progress()
    with contextlib.ExitStack() as stack:
        if arguments.port is not None:
            stack.enter_context(answering(arguments.host, arguments.port, progress))
        stack.enter_context(telling(progress))
        fetcher = Fetcher(Cache(arguments.cache or default_root()), access, progress)
        folder = fetcher.fetch(parse(arguments.source), arguments.link)
    print(folder)  # noqa: T201


def _end(_number: int, _frame: object) -> None:
    """At once, as a container's first process would not by itself; what has come stays in the cache."""
    os._exit(128 + signal.SIGTERM)
