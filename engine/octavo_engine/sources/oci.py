"""A model in an OCI registry: an artifact with a file in each layer, or an image that holds the files.

A small client of the distribution specification: manifests and blobs are all that is needed, and no Python
library resumes a blob.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from typing import Any

import httpx

from octavo_engine.errors import DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.access import Access
from octavo_engine.sources.checksum import Checksum
from octavo_engine.sources.repository import Address, Listing, RemoteFile, failure, unreachable
from octavo_engine.sources.source import Source

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_UNPACK = "io.deis.oras.content.unpack"
_MODEL_PACK = "application/vnd.cncf.model."  # names a path for archives too
_ARCHIVE = re.compile(r"[.+]tar([+.](gzip|zstd))?$")
_PAIR = re.compile(r'(\w+)="([^"]*)"')
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_LARGEST_MANIFEST = 4 << 20  # bytes; the specification's least that registries take
_SECRET_HINT = "OCTAVO_REGISTRY_AUTH, or spec.model.secretName with the key .dockerconfigjson"


class Artifact:
    def __init__(self, source: Source, access: Access, client: httpx.Client) -> None:
        self._source = source
        self._registry, _, self._name = source.name.partition("/")
        host = "registry-1.docker.io" if self._registry == "docker.io" else self._registry
        self._server = access.endpoint or f"https://{host}"
        self._login = _login(access.registry_auth, self._registry)
        self._client = client
        self._authorization = ""

    def listing(self) -> Listing:
        digest, manifest = self._manifest(self._source.revision)
        if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
            digest, manifest = self._manifest(_of_platform(manifest["manifests"], self._source.text))
        layers = manifest.get("layers", ())
        return Listing(digest, tuple(_remote(layer, self._source.text) for layer in layers))

    def address(self, file: RemoteFile) -> Address:
        return Address(self._url(f"blobs/{file.key}"), self._headers())

    def refusal(self, answer: httpx.Response, file: RemoteFile) -> EngineError:
        if answer.status_code == 401 and self._authorization.startswith("Bearer "):
            self._authorize(answer)  # tokens live for minutes; the next try has a new one
            return failure(file.path, httpx.Response(503, request=answer.request))
        return self._refused(answer, f"{file.path} of {self._source.text}")

    def _manifest(self, reference: str) -> tuple[str, dict[str, Any]]:
        """Digest and content; the content is what the digest says."""
        answer = self._get(f"manifests/{reference}", {"Accept": ", ".join((*_INDEXES, *_MANIFESTS))})
        if len(answer.content) > _LARGEST_MANIFEST:
            raise DownloadRefused(f"The manifest of {self._source.text} is larger than 4 MiB.")
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise DownloadRefused(
                f"The manifest of {self._source.text} does not have the digest {reference}."
            )
        try:
            found: dict[str, Any] = answer.json()
        except ValueError as error:
            raise DownloadRefused(f"{self._server} answered no manifest for {self._source.text}.") from error
        return digest, found

    def _get(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        try:
            answer = self._client.get(self._url(path), headers={**headers, **self._headers()})
            if answer.status_code == 401:
                self._authorize(answer)
                answer = self._client.get(self._url(path), headers={**headers, **self._headers()})
        except httpx.HTTPError as error:
            raise unreachable(self._source.text, self._server, error) from error
        if answer.status_code >= 400:
            raise self._refused(answer, self._source.text)
        return answer

    def _authorize(self, answer: httpx.Response) -> None:
        """Answer the registry's challenge. Errors: :class:`EngineError` when it cannot be."""
        challenge = answer.headers.get("www-authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            self._authorization = f"Bearer {self._token(dict(_PAIR.findall(rest)))}"
        elif self._login:
            self._authorization = f"Basic {self._login}"
        else:
            raise self._refused(answer, self._source.text)

    def _token(self, challenge: Mapping[str, str]) -> str:
        query = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        headers = {"Authorization": f"Basic {self._login}"} if self._login else {}
        answer = self._client.get(challenge.get("realm", ""), params=query, headers=headers)
        if answer.status_code >= 400:
            raise self._refused(answer, self._source.text)
        said = answer.json()
        return str(said.get("token") or said.get("access_token") or "")

    def _refused(self, answer: httpx.Response, what: str) -> EngineError:
        if answer.status_code in (401, 403):
            fault = "the given credentials may not read it" if self._login else "it needs credentials"
            return DownloadRefused(f"{what} cannot be read: {fault}; give those that may: {_SECRET_HINT}.")
        if answer.status_code == 404:
            return ModelNotFound(
                f"{what} does not exist at {self._server}; check repository and tag or digest."
            )
        return failure(what, answer)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _url(self, path: str) -> str:
        return f"{self._server}/v2/{self._name}/{path}"


def _remote(layer: Mapping[str, Any], source: str) -> RemoteFile:
    """A layer with a title is a file of that name, unless it says that it is to be unpacked."""
    digest, notes = str(layer["digest"]), layer.get("annotations") or {}
    title = next((str(notes[name]) for name in _TITLES if notes.get(name)), "")
    kind = str(layer.get("mediaType", ""))
    archive = _ARCHIVE.search(kind)
    unpack = notes.get(_UNPACK) == "true" or (
        archive is not None and (not title or kind.startswith(_MODEL_PACK))
    )
    path = title.removeprefix("./").strip("/") if title and not unpack else digest.replace(":", "-")
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or ".." in path.split("/"):
        raise DownloadRefused(f"The layer {title or digest} has a digest or name that is not taken.")
    return RemoteFile(path, digest, int(layer["size"]), Checksum("sha256", value), unpack)


def _of_platform(manifests: list[Mapping[str, Any]], source: str) -> str:
    """The manifest for this machine, or the only one."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    for entry in manifests:
        if (entry.get("platform") or {}).get("architecture") == machine:
            return str(entry["digest"])
    if len(manifests) != 1:
        raise ModelNotFound(f"{source} has no image for {machine}.")
    return str(manifests[0]["digest"])


def _login(text: str, registry: str) -> str:
    """``USER:PASSWORD`` in base64, of a Docker config.json. Errors: :class:`DownloadRefused`."""
    if not text:
        return ""
    try:
        entries: dict[str, Any] = json.loads(text).get("auths", {})
        names = [registry, f"https://{registry}"]
        names += ["https://index.docker.io/v1/"] if registry == "docker.io" else []
        entry: dict[str, Any] = next((entries[name] for name in names if name in entries), {})
        if "auth" in entry:
            base64.b64decode(entry["auth"], validate=True)
            return str(entry["auth"])
        pair = f"{entry['username']}:{entry['password']}" if "username" in entry else ""
        return base64.b64encode(pair.encode()).decode()
    except (ValueError, KeyError, AttributeError, binascii.Error) as error:
        raise DownloadRefused(f"The registry's credentials are no Docker config.json ({error}).") from error
