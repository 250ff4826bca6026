"""Where a model lies on this machine, after a download if that is needed."""

from __future__ import annotations

import os

from octavo_engine.sources.source import is_remote, parse


def local_model(source: str) -> str:
    """``source`` itself, or the folder into which it was downloaded. Errors: :class:`EngineError`."""
    if not is_remote(source):
        return source
    from octavo_engine.sources.access import Access
    from octavo_engine.sources.cache import Cache, default_root
    from octavo_engine.sources.fetch import Fetcher
    from octavo_engine.sources.progress import Progress
    from octavo_engine.sources.telling import telling

    progress = Progress()
    with telling(progress):
        fetcher = Fetcher(Cache(default_root()), Access.of_environment(os.environ), progress)
        return str(fetcher.fetch(parse(source)))
