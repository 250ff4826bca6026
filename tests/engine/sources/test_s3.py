"""Models from a real S3 server (versitygw)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.servers.processes import s3
from e2e.servers.pushing import s3_client
from tests.engine.sources.conftest import NewFetcher, names

from octavo_engine.errors import DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.access import Access
from octavo_engine.sources.checksum import Checksum
from octavo_engine.sources.s3 import Bucket, checksum_of_parts
from octavo_engine.sources.source import parse

pytestmark = pytest.mark.servers

KEY, SECRET = "octavo", "correct horse"
PART = 5 << 20
PARTS = os.urandom(2 * PART + 1000)
OBJECTS = {
    "llama/config.json": b"{}",
    "llama/model-2.safetensors": os.urandom(200_000),
    "llama/training.pt": b"pickled",
    "llama/code.py": b"raise SystemExit",
    "gguf/a.gguf": b"GGUF a",
    "gguf/b.gguf": b"GGUF b",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3(tmp_path_factory.mktemp("s3"), KEY, SECRET) as url:
        client = s3_client(url, KEY, SECRET)
        client.create_bucket(Bucket="models")
        for name, content in OBJECTS.items():
            algorithm = {"ChecksumAlgorithm": "SHA256"} if name.endswith("2.safetensors") else {}
            client.put_object(Bucket="models", Key=name, Body=content, **algorithm)
        upload_in_parts(client, "llama/model-1.safetensors", PARTS)
        yield url


def upload_in_parts(client: Any, key: str, content: bytes) -> None:
    where = {"Bucket": "models", "Key": key}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number, at in enumerate(range(0, len(content), PART), 1):
        answer = client.upload_part(**where, PartNumber=number, Body=content[at : at + PART])
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize("source", ["s3://models/llama", "s3://models/llama/"])
def test_a_prefix_is_taken_without_pickles_and_code(
    server: str, new_fetcher: NewFetcher, source: str
) -> None:
    folder = new_fetcher(server).fetch(parse(source))
    assert names(folder) == {"config.json", "model-1.safetensors", "model-2.safetensors"}
    assert (folder / "model-1.safetensors").read_bytes() == PARTS
    assert (folder / "model-2.safetensors").read_bytes() == OBJECTS["llama/model-2.safetensors"]


def test_one_object_is_taken_by_its_name(server: str, new_fetcher: NewFetcher) -> None:
    assert names(new_fetcher(server).fetch(parse("s3://models/gguf/b.gguf"))) == {"b.gguf"}


def test_every_kind_of_checksum_is_found(server: str) -> None:
    listing = Bucket(parse("s3://models/llama"), Access(endpoint=server)).listing()
    found = {file.path: file.checksum for file in listing.files if isinstance(file.checksum, Checksum)}
    kinds = {path: checksum.kind for path, checksum in found.items()}
    assert kinds == {
        "config.json": "md5",
        "model-1.safetensors": "md5-parts",
        "model-2.safetensors": "sha256",
    }
    assert found["model-1.safetensors"].part_size == PART


@pytest.mark.parametrize(
    ("etag", "size", "first", "part_size"),
    [
        ("e-3", 25, 10, 10),
        ("e-3", 30, 10, 10),
        ("e-1", 7, 7, 7),
        ("e-3", 31, 10, None),  # later parts are larger
        ("e-4", 25, 10, None),  # or smaller
        ("e-3", 25, 25, None),  # the server knows no parts
        ("e-3", 25, 0, None),
        ("e-x", 25, 10, None),
    ],
)
def test_etags_are_checksums_only_of_parts_of_one_size(
    etag: str, size: int, first: int, part_size: int | None
) -> None:
    found = checksum_of_parts(etag, size, first)
    assert (found and found.part_size) == part_size


def test_what_a_killed_pod_left_is_resumed(server: str, new_fetcher: NewFetcher, tmp_path: Path) -> None:
    source = parse("s3://models/llama")
    revision = Bucket(source, Access(endpoint=server)).listing().revision
    partial = tmp_path / f"cache/models/s3-models/{revision}.partial"
    partial.mkdir(parents=True)
    (partial / "model-1.safetensors.part").write_bytes(PARTS[: PART + 7])
    assert (new_fetcher(server).fetch(source) / "model-1.safetensors").read_bytes() == PARTS


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("s3://nobody/llama", ModelNotFound, "there is no bucket nobody"),
        ("s3://models/none", ModelNotFound, "holds no objects; check bucket and prefix"),
        ("s3://models/gguf", ModelNotFound, "several GGUF files"),
    ],
)
def test_refusals(
    server: str, new_fetcher: NewFetcher, source: str, kind: type[EngineError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        new_fetcher(server).fetch(parse(source))


@pytest.mark.parametrize(
    ("secret", "words"),
    [("wrong", "may not be read with the given credentials"), ("", "needs credentials: AWS_ACCESS_KEY_ID")],
)
def test_credentials_that_are_wrong_or_missing(
    server: str, new_fetcher: NewFetcher, monkeypatch: pytest.MonkeyPatch, secret: str, words: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    if not secret:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(DownloadRefused, match=words):
        new_fetcher(server).fetch(parse("s3://models/llama"))
