"""One file from an address to a disk: resumed where it broke off, and verified before it has its name."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import httpx

from octavo_engine.errors import DownloadFailed, DownloadRefused
from octavo_engine.sources.checksum import Digest
from octavo_engine.sources.disk import disk_errors
from octavo_engine.sources.patience import Patience
from octavo_engine.sources.progress import Progress
from octavo_engine.sources.repository import RemoteFile, Repository, unreachable

CHUNK = 1 << 20  # bytes
WHOLE_TRIES = 2  # a file that is complete and wrong is fetched anew so often


class _Wrong(Exception):
    """The file is complete, and its checksum is not the published one."""


class Stopped(Exception):
    """Another file has failed: this one is not wanted any more."""


class Transfer:
    """Fetches files of one repository; several threads may use it at once."""

    def __init__(
        self, client: httpx.Client, repository: Repository, progress: Progress, patience: Patience
    ) -> None:
        self._client = client
        self._repository = repository
        self._progress = progress
        self._patience = patience
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let every fetch that still runs end with :class:`Stopped`."""
        self._stopped.set()

    def fetch(self, file: RemoteFile, target: Path) -> None:
        """Errors: :class:`DownloadRefused`, :class:`DownloadFailed`. What has come stays for the next try."""
        with disk_errors(target.parent):
            if target.exists():  # moved into place by a former run
                self._progress.add(file.size, file.path)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            self._progress.add(_size(part), file.path)
            self._until_sound(file, part)
            part.rename(target)

    def _until_sound(self, file: RemoteFile, part: Path) -> None:
        for _ in range(WHOLE_TRIES):
            try:
                return self._until_complete(file, part)
            except _Wrong:
                self._drop(file, part)
        raise DownloadRefused(
            f"{file.path} does not have the checksum that is published for it, in {WHOLE_TRIES} tries: "
            "what the server sends is damaged; check the endpoint or proxy, or name another revision."
        )

    def _until_complete(self, file: RemoteFile, part: Path) -> None:
        failures = 0
        while True:
            self._raise_when_stopped()
            before = _size(part)
            try:
                return self._attempt(file, part)
            except DownloadFailed as error:
                failures = 1 if _size(part) > before else failures + 1
                self._patience.wait(failures, error, self._progress)

    def _attempt(self, file: RemoteFile, part: Path) -> None:
        if _size(part) > file.size:
            self._drop(file, part)
        digest = file.checksum.begin(file.size) if file.checksum else None
        with part.open("ab") as out:
            have = _feed(part, digest)
            if have < file.size or not file.size:
                self._append(file, out.fileno(), have, digest)
            os.fsync(out.fileno())
        if digest and file.checksum and digest.hexdigest() != file.checksum.value:
            raise _Wrong

    def _append(self, file: RemoteFile, out: int, have: int, digest: Digest | None) -> None:
        """Ask for what is missing and write it; the file is complete afterwards."""
        address = self._repository.address(file)
        headers = {**address.headers, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with self._client.stream("GET", address.url, headers=headers) as answer:
                if answer.status_code >= 400:
                    raise self._repository.refusal(answer, file)
                skip = have if answer.status_code == 200 else 0  # a server without ranges sends all of it
                have += self._write(file, out, digest, answer, skip)
        except httpx.HTTPError as error:
            raise unreachable(file.path, httpx.URL(address.url).host, error) from error
        if have != file.size:
            raise DownloadFailed(f"{file.path} broke off at {have} of {file.size} bytes.")

    def _write(
        self, file: RemoteFile, out: int, digest: Digest | None, answer: httpx.Response, skip: int
    ) -> int:
        """The number of bytes written; the first ``skip`` bytes are there already."""
        written = 0
        for chunk in answer.iter_raw():
            self._raise_when_stopped()
            skipped = min(skip, len(chunk))
            skip -= skipped
            if news := chunk[skipped:]:
                _write_all(out, news)
                written += len(news)
                self._progress.add(len(news), file.path)
                if digest:
                    digest.update(news)
        return written

    def _raise_when_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _drop(self, file: RemoteFile, part: Path) -> None:
        self._progress.add(-_size(part), file.path)
        part.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _feed(part: Path, digest: Digest | None) -> int:
    """What a former try left; its bytes count for the checksum."""
    if digest:
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return _size(part)


def _write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
