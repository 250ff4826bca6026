from pathlib import Path

from tests.engine.sources.test_oci import tar

from octavo_engine.sources.checksum import Checksum
from octavo_engine.sources.repository import RemoteFile
from octavo_engine.sources.unpack import unpack_archives


def test_a_layer_that_an_image_lists_twice_is_laid_over_twice(tmp_path: Path) -> None:
    """Instructions that change nothing all have the one empty layer."""
    contents = {
        "model": tar({"config.json": b"{}", "model.safetensors": b"w"}),
        "empty": tar({}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    layers = [
        RemoteFile(name, name, len(contents[name]), Checksum("sha256", ""), True)
        for name in ("model", "empty", "empty")
    ]
    unpack_archives(tmp_path, layers, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
