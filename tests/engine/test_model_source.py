"""Where a model's files are looked for, and what is said when they are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from octavo_engine.errors import ModelNotFound
from octavo_engine.model_source import ModelFiles, resolve


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package ``toy_model`` whose import fails, and some folders."""
    for name in (
        "toy_model/__init__.py",
        "toy_model/one.gguf",
        "toy_model/sub/config.json",
        "two_models/__init__.py",
        "two_models/a.gguf",
        "two_models/b.gguf",
        "plain/config.json",
        "plain/stray.gguf",
        "weights/notes.txt",
        "hollow/",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text("raise ImportError" if path.suffix == ".py" else "")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "folder", "gguf"),
    [
        ("package://toy_model", "toy_model", "one.gguf"),
        ("package://toy-model", "toy_model", "one.gguf"),
        ("package://toy_model/one.gguf", "toy_model", "one.gguf"),
        ("package://toy_model/sub", "toy_model/sub", None),
        ("package://two_models/b.gguf", "two_models", "b.gguf"),
        ("{}/plain", "plain", None),
        ("file://{}/plain", "plain", None),
        ("{}/two_models/a.gguf", "two_models", "a.gguf"),
        ("{}/toy_model", "toy_model", "one.gguf"),
    ],
)
def test_a_source_leads_to_its_files(tree: Path, source: str, folder: str, gguf: str | None) -> None:
    where = tree / folder
    assert resolve(source.format(tree)) == ModelFiles(where, where / gguf if gguf else None)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("package://no_such_package", r"'no_such_package' is not installed .*pip install no_such_package"),
        ("package://", "does not name a package"),
        ("package://toy_model/absent.gguf", r"does not exist \(.*toy_model: it holds one.gguf, sub\)"),
        ("package://toy_model/../plain", "points outside the package 'toy_model'"),
        ("package://two_models", r"several GGUF files \(a.gguf, b.gguf\); add /FILE"),
        ("{}/weights", r"neither a config.json nor a .gguf file \(it holds notes.txt\)"),
        ("{}/hollow", "it is empty"),
        ("{}/weights/notes.txt", r"is a file but not a .gguf file"),
        ("/nowhere/at/all", "/nowhere/at/all does not exist; name a model folder"),
    ],
)
def test_a_source_that_leads_nowhere_says_what_was_looked_at(tree: Path, source: str, words: str) -> None:
    with pytest.raises(ModelNotFound, match=words):
        resolve(source.format(tree))


@pytest.mark.parametrize(
    "module",
    ["scheduler", "messages", "config", "model_source", "engine", "tokenizer", "gguf_header", "runner"],
)
def test_importing_a_pure_module_loads_no_torch(module: str) -> None:
    heavy = "bool({'torch', 'transformers'} & sys.modules.keys())"
    code = f"import sys, octavo_engine.{module}; sys.exit({heavy})"
    ended = subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert ended.returncode == 0
