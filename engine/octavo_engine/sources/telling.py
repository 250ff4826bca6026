"""Progress for people: a bar on a terminal, a line in the log every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from octavo_engine.sources.progress import Progress, repeating

LOG_SECONDS = 5.0
BAR_SECONDS = 0.3
_log = logging.getLogger(__name__)


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    if not sys.stderr.isatty():
        with repeating(LOG_SECONDS, lambda: _log.info("%s", progress.now.sentence)):
            yield
        return
    with (
        tqdm(unit="B", unit_scale=True, leave=False) as bar,
        repeating(BAR_SECONDS, lambda: _draw(bar, progress)),
    ):
        yield


def _draw(bar: tqdm, progress: Progress) -> None:
    now = progress.now
    bar.total, bar.n = now.total_bytes or None, now.downloaded_bytes
    bar.set_description_str(now.file or now.state, refresh=False)
    bar.refresh()
