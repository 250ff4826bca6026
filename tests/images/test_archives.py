"""Layers and archives: the same content gives the same bytes, and digests are true."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest
from images.layers import write_layer
from images.oci import Layer, write_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/link").symlink_to("tool")
    os.link(root / "bin/tool", root / "bin/twin")
    (root / "dev").mkdir()
    (root / "dev/null").touch()
    return root


def members(layer: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(layer) as tar:
        return {each.name: each for each in tar.getmembers()}


def test_a_layer_depends_on_content_and_not_on_times(folder: Path, tmp_path: Path) -> None:
    digests = set()
    for second in (0, 10**9):
        os.utime(folder / "bin/tool", (second, second))
        write_layer(tmp_path / "layer.tar", folder)
        digests.add(Layer.of(tmp_path / "layer.tar").sha256)
    assert len(digests) == 1


def test_a_layer_keeps_modes_and_links_and_gives_all_to_root(folder: Path, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.tar", folder)
    found = members(tmp_path / "layer.tar")
    assert found["bin/tool"].mode == 0o755
    assert found["bin/link"].linkname == "tool"
    assert {(each.uid, each.gid, each.uname) for each in found.values()} == {(0, 0, "")}


def test_a_hard_link_is_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.tar", folder)
    found = members(tmp_path / "layer.tar")
    assert found["bin/tool"].isreg()
    assert found["bin/twin"].isreg()
    assert found["bin/twin"].size == len("#!/bin/sh\n")


def test_what_a_pattern_names_is_left_out(folder: Path, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.tar", folder, skip=["dev/*", "b*"])
    assert "dev" in members(tmp_path / "layer.tar")
    assert "dev/null" not in members(tmp_path / "layer.tar")
    assert "bin/tool" not in members(tmp_path / "layer.tar")


def test_a_layer_can_lie_deeper_in_the_image(folder: Path, tmp_path: Path) -> None:
    write_layer(tmp_path / "layer.tar", folder, at="opt/octavo/site")
    names = list(members(tmp_path / "layer.tar"))
    assert names[:3] == ["opt", "opt/octavo", "opt/octavo/site"]
    assert "opt/octavo/site/bin/tool" in names


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    write_layer(tmp_path / "layer.tar", folder)
    layer = Layer.of(tmp_path / "layer.tar")
    out = tmp_path / "image.tar"
    write_archive(out, "octavo.local/octavo-test:1", [layer, layer], {"User": "65532:65532"})
    return out


def read(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar.getmembers()}  # type: ignore[union-attr]


def test_every_blob_is_named_by_its_digest(archive: Path) -> None:
    blobs = {name: data for name, data in read(archive).items() if name.startswith("blobs/sha256/")}
    assert len(blobs) == 3  # manifest, configuration, and the layer once
    for name, data in blobs.items():
        assert hashlib.sha256(data).hexdigest() == name.rsplit("/", 1)[1]


def test_the_index_leads_to_name_configuration_and_layers(archive: Path) -> None:
    files = read(archive)
    entry = json.loads(files["index.json"])["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "octavo.local/octavo-test:1"
    manifest = json.loads(files[_path(entry)])
    assert entry["size"] == len(files[_path(entry)])
    config = json.loads(files[_path(manifest["config"])])
    assert config["config"] == {"User": "65532:65532"}
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert [len(files[_path(layer)]) for layer in manifest["layers"]] == [
        layer["size"] for layer in manifest["layers"]
    ]


def _path(descriptor: dict[str, str]) -> str:
    return f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"
