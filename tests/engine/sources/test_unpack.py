"""What comes out of a model's archives."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard
from tests.engine.sources.test_oci import tar

from octavo_engine.errors import DownloadRefused, ModelNotFound
from octavo_engine.sources.repository import RemoteFile
from octavo_engine.sources.unpack import room_to_unpack, unpack_archives

SOURCE = "oci://registry.example/team/model:1"
MODEL = {"config.json": b"{}", "model.safetensors": b"w"}


def archive(name: str) -> RemoteFile:
    return RemoteFile(name, name, 10, None, True)


def plain(path: str) -> RemoteFile:
    return RemoteFile(path, path, 10)


def unpacked(folder: Path, files: Mapping[RemoteFile, bytes], inside: str = "") -> dict[str, bytes]:
    """What is left in ``folder``, by path."""
    for file, content in files.items():
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(content)
    unpack_archives(folder, list(files), inside, SOURCE)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_layer_that_an_image_lists_twice_is_laid_over_twice(tmp_path: Path) -> None:
    """Instructions that change nothing all have the one empty layer."""
    (tmp_path / "model").write_bytes(tar(MODEL))
    (tmp_path / "empty").write_bytes(tar({}))
    unpack_archives(tmp_path, [archive("model"), archive("empty"), archive("empty")], "", SOURCE)
    assert {path.name for path in tmp_path.iterdir()} == set(MODEL)


def test_files_beside_an_archive_are_part_of_the_model(tmp_path: Path) -> None:
    files = {
        plain("llama/config.json"): b"{}",
        plain("llama/model.safetensors"): b"w",
        archive("extra"): tar({"llama/additional_chat_templates/rag.jinja": b"t", "llama/run.py": b"x"}),
    }
    assert unpacked(tmp_path, files) == MODEL | {"additional_chat_templates/rag.jinja": b"t"}


def test_the_nearest_folder_with_a_whole_model_is_taken(tmp_path: Path) -> None:
    """An image of a program may hold a config.json of its own."""
    layer = {"config.json": b"app"} | {f"srv/models/llama/{name}": data for name, data in MODEL.items()}
    assert unpacked(tmp_path, {archive("a"): tar(layer)}) == MODEL


@pytest.mark.parametrize("inside", ["q8.gguf", "models/q8.gguf", "srv/models/q8.gguf"])
def test_a_gguf_file_is_found_by_the_end_of_its_path(tmp_path: Path, inside: str) -> None:
    layer = {"config.json": b"{}", "srv/models/q4.gguf": b"4", "srv/models/q8.gguf": b"8"}
    assert unpacked(tmp_path, {archive("a"): tar(layer)}, inside) == {"q8.gguf": b"8"}


@pytest.mark.parametrize(
    ("layer", "inside", "words"),
    [
        ({"config.json": b"{}", "tokenizer.json": b"{}"}, "", "neither config.json with safetensors nor"),
        ({"m/q4.gguf": b"4", "m/q8.gguf": b"8"}, "", r"several GGUF files \(q4.gguf, q8.gguf\); add #FILE"),
        ({"m/q4.gguf": b"4"}, "q8.gguf", "holds no file q8.gguf; it holds m/q4.gguf"),
        ({"m/q4.gguf": b"4"}, "other", "neither a config.json nor a GGUF file at other"),
        ({"run.py": b"x"}, "", "neither a config.json nor a GGUF file"),
    ],
)
def test_archives_without_the_model_are_refused(
    tmp_path: Path, layer: Mapping[str, bytes], inside: str, words: str
) -> None:
    with pytest.raises(ModelNotFound, match=words):
        unpacked(tmp_path, {archive("a"): tar(layer)}, inside)


SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


@pytest.mark.parametrize("skipped", [b"", SKIPPABLE], ids=["", "after a skippable frame"])
def test_zstd_is_read_in_as_many_frames_as_it_has(tmp_path: Path, skipped: bytes) -> None:
    """Layers that can be fetched in parts have a frame for each file, and a table in skippable ones."""
    content = tar(MODEL)
    frames = [zstandard.compress(content[at : at + 1000]) for at in range(0, len(content), 1000)]
    assert unpacked(tmp_path, {archive("a"): skipped + SKIPPABLE.join(frames) + SKIPPABLE}) == MODEL


@pytest.mark.parametrize(
    "content",
    [
        b"no tar at all",
        b"",
        gzip.compress(tar(MODEL))[:60],
        b"\x1f\x8b\x08" + bytes(80),
        zstandard.compress(tar(MODEL))[:60],
        zstandard.compress(b"no tar at all"),
        b"\x28\xb5\x2f\xfd" + bytes(80),
    ],
)
def test_a_broken_layer_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DownloadRefused, match=r"The layer a of oci://.* cannot be unpacked: "):
        unpacked(tmp_path, {archive("a"): content})


def test_room_is_kept_for_what_comes_out() -> None:
    assert room_to_unpack([archive("a"), archive("a"), plain("config.json")]) == 10
