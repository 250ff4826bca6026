"""From a source to a complete folder in the cache, downloaded once by all who share it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import httpx

from octavo_engine.sources.access import Access
from octavo_engine.sources.cache import Cache
from octavo_engine.sources.disk import disk_errors
from octavo_engine.sources.patience import Patience
from octavo_engine.sources.progress import Progress, Snapshot, repeating
from octavo_engine.sources.repository import RemoteFile, Repository, distinct
from octavo_engine.sources.source import Source, link_name
from octavo_engine.sources.transfer import Stopped, Transfer
from octavo_engine.sources.unpack import room_to_unpack, unpack_archives
from octavo_engine.sources.wanted import wanted

AT_ONCE = 4  # files
SHARE_SECONDS = 1.0
TIMEOUT = httpx.Timeout(60, connect=15)
REDIRECTS = 5


class Fetcher(NamedTuple):
    """Downloads models into one cache, with one set of credentials."""

    cache: Cache
    access: Access
    progress: Progress
    patience: Patience = Patience()

    def fetch(self, source: Source, name: str = "") -> Path:
        """The model's folder, a link in the cache under ``name``.

        What a source led to when it was first asked for stays, even where a branch or tag moves: pods of one
        deployment that share a cache serve the same files. Errors: :class:`EngineError`.
        """
        name = name or link_name(source.text, self.access.endpoint)
        if found := self.cache.linked(name):
            return self._done(found)
        self.cache.prepare()
        with self.cache.locked(name, self.progress), self._shared(name):
            if found := self.cache.linked(name):
                return self._done(found)
            with httpx.Client(follow_redirects=True, max_redirects=REDIRECTS, timeout=TIMEOUT) as client:
                folder = self._download(source, client)
            with disk_errors(self.cache.root):
                return self._done(self.cache.set_link(name, folder))

    def _download(self, source: Source, client: httpx.Client) -> Path:
        repository = repository_of(source, self.access, client)
        listing = self.patience.call(repository.listing, self.progress)
        files = wanted(listing.files, source.inside, source.text)
        folder = self.cache.folder(source, listing.revision)
        revision = f"{folder.parent.name}-{folder.name}"
        with self.cache.locked(revision, self.progress):
            if not folder.is_dir():  # another source may have led to the same revision
                transfer = Transfer(client, repository, self.progress, self.patience)
                with self._shared(revision):
                    self._fill(folder, files, transfer, source)
        return folder

    def _shared(self, name: str) -> AbstractContextManager[None]:
        """Shows those who wait for this lock how far the download is, or why it does not begin."""
        return repeating(SHARE_SECONDS, lambda: self.cache.share(name, self.progress.now))

    def _fill(self, folder: Path, files: Sequence[RemoteFile], transfer: Transfer, source: Source) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        once = distinct(files)
        total = sum(file.size for file in once)
        self.cache.require_room(total - _present(partial) + room_to_unpack(files))
        self.progress.begin(total)
        _fetch_all(transfer, once, partial)
        with disk_errors(folder):
            unpack_archives(partial, files, source.inside, source.text)
            partial.rename(folder)

    def _done(self, folder: Path) -> Path:
        now = self.progress.now
        self.progress.show(Snapshot("done", now.total_bytes, now.total_bytes))
        return folder


def repository_of(source: Source, access: Access, client: httpx.Client) -> Repository:
    """Each brings its own library, which only those load who ask for it."""
    if source.scheme == "hf":
        from octavo_engine.sources.hub import Hub

        return Hub(source, access)
    if source.scheme == "s3":
        from octavo_engine.sources.s3 import Bucket

        return Bucket(source, access)
    from octavo_engine.sources.oci import Artifact

    return Artifact(source, access, client)


def _fetch_all(transfer: Transfer, files: Sequence[RemoteFile], folder: Path) -> None:
    """Errors: that of the first file that fails; the others are stopped, and keep what they have."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(transfer.fetch, file, folder / file.path) for file in files]
        wait(jobs, return_when=FIRST_EXCEPTION)
        transfer.stop()
    for job in jobs:
        if (error := job.exception()) and not isinstance(error, Stopped):
            raise error


def _present(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
