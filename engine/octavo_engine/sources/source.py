"""The text of a model source that is downloaded, taken apart. Pure.

hf://OWNER/NAME[@REVISION][#PATH]    s3://BUCKET[/PREFIX]    oci://REGISTRY/REPOSITORY[:TAG][@DIGEST][#PATH]
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from octavo_engine.errors import ConfigError

_HUB = re.compile(r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?(#(?P<path>[^#]+))?")
_BUCKET = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<path>.*))?")
_ARTIFACT = re.compile(
    r"(?P<name>[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+)"
    r"(:(?P<tag>[\w][\w.-]{0,127}))?(@(?P<digest>sha256:[a-f0-9]{64}))?(#(?P<path>[^#]+))?"
)
_SHAPES = {
    "hf": (_HUB, "hf://OWNER/NAME[@REVISION][#PATH]"),
    "s3": (_BUCKET, "s3://BUCKET/PREFIX"),
    "oci": (_ARTIFACT, "oci://REGISTRY/REPOSITORY[:TAG][@DIGEST][#PATH]"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """``name``: repository, bucket, or registry with repository. ``path``: the folder or file inside."""

    text: str
    scheme: str
    name: str
    revision: str = ""
    path: str = ""

    @property
    def inside(self) -> str:
        """The path in what the repository lists; a bucket lists below its prefix already."""
        return "" if self.scheme == "s3" else self.path

    @property
    def slug(self) -> str:
        """The name as one part of a path."""
        return f"{self.scheme}-{re.sub(r'[^A-Za-z0-9._-]+', '--', self.name)}"


def is_remote(text: str) -> bool:
    return text.partition("://")[0] in _SHAPES and "://" in text


def parse(text: str) -> Source:
    """Errors: :class:`ConfigError` saying how such a source is written."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SHAPES:
        known = ", ".join(f"{name}://" for name in _SHAPES)
        raise ConfigError(f"{text} is no source to download from; write one of {known}.")
    pattern, shape = _SHAPES[scheme]
    found = pattern.fullmatch(rest)
    path = ((found and found["path"]) or "").strip("/")
    if found is None or ".." in path.split("/"):
        raise ConfigError(f"{text} cannot be read as a model source; write {shape}.")
    return Source(text, scheme, found["name"], _revision(scheme, found), path)


def _revision(scheme: str, found: re.Match[str]) -> str:
    if scheme == "hf":
        return found["revision"] or "main"
    return (found["digest"] or found["tag"] or "latest") if scheme == "oci" else ""


def link_name(text: str, endpoint: str = "") -> str:
    """The name under which a cache keeps what a source led to, unless another is given."""
    return hashlib.sha256(f"{text}\n{endpoint}".encode()).hexdigest()[:16]
