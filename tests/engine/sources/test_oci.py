"""Models from a real OCI registry (distribution)."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from e2e.servers.processes import registry
from e2e.servers.pushing import MANIFEST, Pusher
from tests.engine.sources.conftest import NewFetcher, names

from octavo_engine.errors import DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.source import parse

pytestmark = pytest.mark.servers

INDEX = "application/vnd.oci.image.index.v1+json"
WEIGHTS = os.urandom(1_500_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "run.py": b"raise SystemExit"}
BCRYPT_OF_RIGHT = "$2y$04$abcdefghijklmnopqrstuuFmEfrkTQnczNzw475xE2VhDrK1uwJiC"


def tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture(scope="module")
def pusher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pusher]:
    with registry(tmp_path_factory.mktemp("registry")) as url:
        pusher = Pusher(url)
        pusher.artifact("team/llama", "8b", FILES)
        yield pusher


def source(text: str) -> Any:
    return parse(f"oci://registry.example/{text}")


def test_an_artifact_is_taken_by_tag_and_by_digest(pusher: Pusher, new_fetcher: NewFetcher) -> None:
    digest = pusher.artifact("team/pinned", "1", FILES)["digest"]
    for text in ("team/pinned:1", f"team/pinned@{digest}"):
        folder = new_fetcher(pusher.url).fetch(source(text))
        assert names(folder) == {"config.json", "model.safetensors"}
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert folder.resolve().name == digest.replace(":", "-")


def test_an_image_is_unpacked_and_its_later_layers_win(pusher: Pusher, new_fetcher: NewFetcher) -> None:
    first = tar({"models/config.json": b"old", "models/model.safetensors": WEIGHTS, "etc/passwd": b"root"})
    second = gzip.compress(tar({"models/config.json": b"new", "models/evil.py": b"raise SystemExit"}))
    kinds = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"
    layers = [
        {**pusher.blob("team/image", content), "mediaType": kind}
        for content, kind in zip((first, second), kinds, strict=True)
    ]
    empty = {**pusher.blob("team/image", tar({})), "mediaType": kinds[0]}
    pusher.image("team/image", "1", [empty, layers[0], empty, layers[1], empty])
    for text in ("team/image:1", "team/image:1#models"):
        folder = new_fetcher(pusher.url).fetch(source(text))
        assert names(folder) == {"config.json", "model.safetensors"}
        assert (folder / "config.json").read_bytes() == b"new"


def test_a_model_pack_of_files_and_folders_is_whole(pusher: Pusher, new_fetcher: NewFetcher) -> None:
    """Its archives have a path, and are archives all the same."""
    layers = [
        {
            **pusher.blob("team/pack", content),
            "mediaType": f"application/vnd.cncf.model.{kind}",
            "annotations": {"org.cncf.model.filepath": path},
        }
        for kind, path, content in (
            ("weight.config.v1.raw", "config.json", b"{}"),
            ("weight.v1.tar", "model.safetensors", tar({"model.safetensors": WEIGHTS})),
            ("doc.v1.tar+gzip", "docs", gzip.compress(tar({"docs/README.md": b"?"}))),
        )
    ]
    pusher.image("team/pack", "1", layers)
    folder = new_fetcher(pusher.url).fetch(source("team/pack:1"))
    assert names(folder) == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_layers_may_be_compressed_with_zstd(pusher: Pusher, new_fetcher: NewFetcher) -> None:
    content = zstandard.compress(tar({"config.json": b"{}", "model.safetensors": WEIGHTS}))
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    pusher.image("team/zstd", "1", [{**pusher.blob("team/zstd", content), "mediaType": kind}])
    folder = new_fetcher(pusher.url).fetch(source("team/zstd:1"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_an_index_leads_to_the_image_of_this_machine(pusher: Pusher, new_fetcher: NewFetcher) -> None:
    entries = []
    for machine in ("amd64", "arm64"):
        found = pusher.artifact(
            "team/many", machine, {"config.json": b"{}", "m.safetensors": machine.encode()}
        )
        entries.append({**found, "mediaType": MANIFEST, "platform": {"os": "linux", "architecture": machine}})
    pusher.manifest("team/many", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    folder = new_fetcher(pusher.url).fetch(source("team/many:1"))
    expected = b"amd64" if os.uname().machine == "x86_64" else b"arm64"
    assert (folder / "m.safetensors").read_bytes() == expected


def test_what_a_killed_pod_left_is_resumed(pusher: Pusher, new_fetcher: NewFetcher, tmp_path: Path) -> None:
    digest = pusher.artifact("team/llama", "8b", FILES)["digest"].replace(":", "-")
    partial = tmp_path / f"cache/models/oci-registry.example--team--llama/{digest}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors.part").write_bytes(WEIGHTS[:900_000])
    folder = new_fetcher(pusher.url).fetch(source("team/llama:8b"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


ESCAPES = {"../config.json": b"{}", "/config.json": b"{}"}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_archive_cannot_write_outside(pusher: Pusher, new_fetcher: NewFetcher, name: str) -> None:
    repository = f"team/evil-{len(name)}"
    content = tar({name: b"{}", "m.safetensors": b"x"})
    layer = {**pusher.blob(repository, content), "mediaType": "application/vnd.oci.image.layer.v1.tar"}
    pusher.image(repository, "1", [layer])
    fetcher = new_fetcher(pusher.url)
    with contextlib.suppress(EngineError):
        fetcher.fetch(source(f"{repository}:1"))
    assert not (fetcher.cache.root.parent / "config.json").exists()
    assert not Path("/config.json").exists()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("team/none:1", ModelNotFound, "does not exist at http"),
        ("team/llama:none", ModelNotFound, "check repository and tag or digest"),
        ("team/llama:8b#x.gguf", ModelNotFound, "holds no file x.gguf"),
    ],
)
def test_refusals(
    pusher: Pusher, new_fetcher: NewFetcher, text: str, kind: type[EngineError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        new_fetcher(pusher.url).fetch(source(text))


def test_a_registry_with_accounts(tmp_path: Path, new_fetcher: NewFetcher) -> None:
    (tmp_path / "htpasswd").write_text(f"me:{BCRYPT_OF_RIGHT}\n")
    with registry(tmp_path, htpasswd=tmp_path / "htpasswd") as url:
        Pusher(url, ("me", "right")).artifact("llama", "1", FILES)
        with pytest.raises(DownloadRefused, match=r"it needs credentials; .*spec.model.secretName"):
            new_fetcher(url).fetch(source("llama:1"))
        for password, allowed in (("wrong", False), ("right", True)):
            login = base64.b64encode(f"me:{password}".encode()).decode()
            auth = json.dumps({"auths": {"registry.example": {"auth": login}}})
            fetcher = new_fetcher(url, registry_auth=auth)
            if allowed:
                assert names(fetcher.fetch(source("llama:1"))) == {"config.json", "model.safetensors"}
                continue
            with pytest.raises(DownloadRefused, match="the given credentials may not read it"):
                fetcher.fetch(source("llama:1"))
