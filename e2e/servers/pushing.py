"""Putting models into a registry and a bucket, for tests."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import httpx
from botocore.config import Config
from botocore.session import Session

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
RAW = "application/octet-stream"
TITLE = "org.opencontainers.image.title"


class Pusher:
    """Pushes to a registry what a test needs."""

    def __init__(self, url: str, auth: tuple[str, str] | None = None) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, auth=auth)

    def blob(self, name: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        where = self.http.post(f"/v2/{name}/blobs/uploads/").raise_for_status().headers["location"]
        query = {"digest": digest}
        self.http.put(httpx.URL(where).copy_merge_params(query), content=content).raise_for_status()
        return {"digest": digest, "size": len(content)}

    def manifest(self, name: str, tag: str, document: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps(document).encode()
        headers = {"Content-Type": document["mediaType"]}
        self.http.put(f"/v2/{name}/manifests/{tag}", content=body, headers=headers).raise_for_status()
        return {"digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}

    def image(self, name: str, tag: str, layers: list[dict[str, Any]]) -> dict[str, Any]:
        config = {**self.blob(name, b"{}"), "mediaType": "application/vnd.oci.empty.v1+json"}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return self.manifest(name, tag, document)

    def artifact(self, name: str, tag: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        """A layer for each file, as ORAS pushes them."""
        layers = [
            {**self.blob(name, content), "mediaType": RAW, "annotations": {TITLE: path}}
            for path, content in files.items()
        ]
        return self.image(name, tag, layers)


def s3_client(url: str, access_key: str, secret_key: str) -> Any:
    """A client of an S3 server that is no AWS."""
    return Session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )
