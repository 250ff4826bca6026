"""A model hub: huggingface_hub tells what there is, by revision and with checksums.

The files themselves go the way of all sources (transfer.py), so that progress, resuming, verifying and the
shared cache are the same for all of them.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from octavo_engine.errors import DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.access import Access
from octavo_engine.sources.checksum import Checksum
from octavo_engine.sources.repository import Address, Listing, RemoteFile, failure, unreachable
from octavo_engine.sources.source import Source

_TOKEN_HINT = "a token that may read it: HF_TOKEN, or spec.model.secretName with the key token"


class Hub:
    def __init__(self, source: Source, access: Access) -> None:
        self._source = source
        endpoint = access.endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self._endpoint = endpoint.rstrip("/")
        self._token = access.hub_token or get_token()
        self._api = HfApi(endpoint=self._endpoint, token=self._token or False, library_name="octavo")
        self._commit = ""

    def listing(self) -> Listing:
        source = self._source
        try:
            info = self._api.model_info(
                source.name, revision=source.revision, files_metadata=True, timeout=30
            )
        except (HfHubHTTPError, HFValidationError) as error:
            raise self._unlisted(error) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise unreachable(source.text, self._endpoint, error) from error
        self._commit = str(info.sha)
        return Listing(self._commit, tuple(_remote(sibling) for sibling in info.siblings or ()))

    def address(self, file: RemoteFile) -> Address:
        url = hf_hub_url(self._source.name, file.key, revision=self._commit, endpoint=self._endpoint)
        return Address(url, {"Authorization": f"Bearer {self._token}"} if self._token else {})

    def refusal(self, answer: httpx.Response, file: RemoteFile) -> EngineError:
        if answer.status_code in (401, 403):
            return self._forbidden()
        return failure(f"{file.path} of {self._source.text}", answer)

    def _unlisted(self, error: HfHubHTTPError | HFValidationError) -> EngineError:
        source = self._source
        if isinstance(error, GatedRepoError):
            return self._forbidden()
        if isinstance(error, RevisionNotFoundError):
            return ModelNotFound(
                f"{source.text} has no revision {source.revision}; name a branch, tag or commit."
            )
        if isinstance(error, RepositoryNotFoundError):
            return ModelNotFound(
                f"{source.text} does not exist at {self._endpoint}, or is private; "
                f"check the name, or give {_TOKEN_HINT}."
            )
        if isinstance(error, HFValidationError):
            return ModelNotFound(f"{source.text} is no name that a hub has: {error}")
        if error.response.status_code in (401, 403):
            return self._forbidden()
        return failure(source.text, error.response)

    def _forbidden(self) -> DownloadRefused:
        page = f"{self._endpoint}/{self._source.name}"
        if self._token:
            return DownloadRefused(
                f"{self._source.text} may not be read with the given token; "
                f"ask for access at {page}, or give {_TOKEN_HINT}."
            )
        return DownloadRefused(
            f"{self._source.text} is gated; ask for access at {page} and give {_TOKEN_HINT}."
        )


def _remote(sibling: Any) -> RemoteFile:
    """Large files are known by their SHA-256, others by the id of their git blob."""
    name = str(sibling.rfilename)
    if sibling.lfs:
        return RemoteFile(name, name, int(sibling.lfs.size), Checksum("sha256", str(sibling.lfs.sha256)))
    return RemoteFile(name, name, int(sibling.size or 0), Checksum("git", str(sibling.blob_id)))
