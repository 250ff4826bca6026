"""A model in a bucket: botocore finds credentials and signs, the files go the way of all sources."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session

from octavo_engine.errors import DownloadFailed, DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.access import Access
from octavo_engine.sources.checksum import Checksum
from octavo_engine.sources.repository import Address, Listing, RemoteFile, failure
from octavo_engine.sources.source import Source
from octavo_engine.sources.wanted import is_taken

_URL_SECONDS = 3600
_REGION = "us-east-1"
_SECRET_HINT = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or spec.model.secretName with these keys"
_FOREIGN_ENCRYPTION = ("aws:kms", "aws:kms:dsse")  # their ETags are no MD5


class Bucket:
    """``s3://BUCKET/PREFIX``: all objects below the prefix, or the one object that it names."""

    def __init__(self, source: Source, access: Access) -> None:
        self._source = source
        session = Session()
        region = access.region or session.get_config_variable("region") or _REGION
        self._client: Any = session.create_client(
            "s3",
            region_name=region,
            endpoint_url=access.endpoint or None,
            config=Config(
                signature_version="s3v4",
                connect_timeout=15,
                read_timeout=30,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path" if access.endpoint else "auto"},
            ),
        )

    def listing(self) -> Listing:
        """The revision is made of names, sizes and ETags: a bucket has none of its own."""
        try:
            found = self._objects()
            if not found:
                raise ModelNotFound(f"{self._source.text} holds no objects; check bucket and prefix.")
            files = tuple(self._remote(path, item) for path, item in found.items())
        except (BotoCoreError, ClientError) as error:
            raise self._error(error) from error
        text = "".join(f"{path} {item['Size']} {item['ETag']}\n" for path, item in sorted(found.items()))
        return Listing(hashlib.sha256(text.encode()).hexdigest()[:40], files)

    def address(self, file: RemoteFile) -> Address:
        parameters = {"Bucket": self._source.name, "Key": file.key}
        try:
            url = self._client.generate_presigned_url("get_object", parameters, ExpiresIn=_URL_SECONDS)
        except (BotoCoreError, ClientError) as error:
            raise self._error(error) from error
        return Address(url, {})

    def refusal(self, answer: httpx.Response, file: RemoteFile) -> EngineError:
        if answer.status_code in (401, 403):
            return self._forbidden()
        return failure(f"{file.path} of {self._source.text}", answer)

    def _objects(self) -> dict[str, dict[str, Any]]:
        """By path below the prefix; of a prefix that names one object, that object."""
        prefix = self._source.path
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._source.name, Prefix=prefix
        )
        every = {item["Key"]: item for page in pages for item in page.get("Contents", ())}
        if prefix in every and not prefix.endswith("/"):
            return {prefix.rpartition("/")[2]: every[prefix]}
        below = f"{prefix}/" if prefix else ""
        return {key.removeprefix(below): item for key, item in every.items() if _is_below(key, below)}

    def _remote(self, path: str, item: dict[str, Any]) -> RemoteFile:
        key = str(item["Key"])
        checksum = self._checksum(key) if is_taken(path) else None
        return RemoteFile(path, key, int(item["Size"]), checksum)

    def _checksum(self, key: str) -> Checksum | None:
        """SHA-256 where the object has one of its whole content, else what its ETag tells."""
        head = self._client.head_object(Bucket=self._source.name, Key=key, ChecksumMode="ENABLED")
        if (sha := head.get("ChecksumSHA256")) and "-" not in sha:
            return Checksum("sha256", _hex_of_base64(sha))
        etag = str(head["ETag"]).strip('"')
        if head.get("ServerSideEncryption") in _FOREIGN_ENCRYPTION or head.get("SSECustomerAlgorithm"):
            return None
        value, dash, _ = etag.partition("-")
        if len(value) != 32:
            return None
        if not dash:
            return Checksum("md5", etag)
        first = self._client.head_object(Bucket=self._source.name, Key=key, PartNumber=1)
        return checksum_of_parts(etag, int(head["ContentLength"]), int(first["ContentLength"]))

    def _error(self, error: BotoCoreError | ClientError) -> EngineError:
        source = self._source
        if isinstance(error, NoCredentialsError):
            return DownloadRefused(f"{source.text} needs credentials: {_SECRET_HINT}.")
        if not isinstance(error, ClientError):
            return DownloadFailed(f"{source.text} cannot be fetched: {error}")
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            return ModelNotFound(f"{source.text} does not exist: there is no bucket {source.name}.")
        if status in (401, 403):
            return self._forbidden(code)
        if status == 404:
            return ModelNotFound(f"{source.text} does not exist: {code}.")
        answer = httpx.Response(status, request=httpx.Request("GET", self._client.meta.endpoint_url))
        return failure(source.text, answer)

    def _forbidden(self, code: str = "AccessDenied") -> DownloadRefused:
        return DownloadRefused(
            f"{self._source.text} may not be read with the given credentials ({code}); "
            f"give those that may: {_SECRET_HINT}."
        )


def checksum_of_parts(etag: str, size: int, first: int) -> Checksum | None:
    """None where the parts are not all like the first: clients may make them as they like, and a server that
    knows no parts answers with the whole."""
    number = etag.partition("-")[2]
    if not number.isdecimal() or first <= 0 or -(-size // first) != int(number):
        return None
    return Checksum("md5-parts", etag, first)


def _is_below(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and not key.endswith("/")


def _hex_of_base64(text: str) -> str:
    return base64.b64decode(text).hex()
