"""What a hub, a bucket and a registry have in common: a listing of files, and an address for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from octavo_engine.errors import DownloadFailed, DownloadRefused, EngineError
from octavo_engine.sources.checksum import Checksum


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """``path``: its place in the model's folder. ``key``: what the repository knows it by.

    ``unpack``: the file is a tar archive whose content belongs into the folder.
    """

    path: str
    key: str
    size: int
    checksum: Checksum | None = None
    unpack: bool = False


def distinct(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """One for each path: images list their empty layer again and again."""
    return list({file.path: file for file in files}.values())


@dataclass(frozen=True, slots=True)
class Listing:
    """``revision`` names exactly these contents."""

    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    headers: Mapping[str, str]


class Repository(Protocol):
    def listing(self) -> Listing:
        """All files. Errors: :class:`EngineError`; :class:`DownloadFailed` when another try may succeed."""

    def address(self, file: RemoteFile) -> Address:
        """Where a file is now; asked again for each try, since addresses expire."""

    def refusal(self, answer: httpx.Response, file: RemoteFile) -> EngineError:
        """The error that an answer with a status of 400 or above stands for."""


def failure(what: str, answer: httpx.Response) -> EngineError:
    """For statuses that mean the same everywhere: too many requests and faults of the server may pass."""
    sentence = f"{what} cannot be fetched: {answer.url.host} answered {answer.status_code}"
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
        return DownloadFailed(f"{sentence}.", retry_after(answer.headers))
    return DownloadRefused(f"{sentence}; check model source, endpoint and credentials.")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks for; dates are not looked at."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def unreachable(what: str, server: str, error: Exception) -> DownloadFailed:
    detail = str(error) or type(error).__name__
    return DownloadFailed(f"{what} cannot be fetched: {server} cannot be reached ({detail}).")
