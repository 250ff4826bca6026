from __future__ import annotations

import pytest

from octavo_engine.errors import ModelNotFound
from octavo_engine.sources.repository import RemoteFile
from octavo_engine.sources.wanted import wanted

WEIGHTS = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
TEXT = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]


def listed(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, path, 1) for path in paths]


@pytest.mark.parametrize(
    ("paths", "path", "expected"),
    [
        pytest.param([*WEIGHTS, *TEXT], "", [*WEIGHTS, *TEXT], id="a whole repository"),
        pytest.param(
            [*WEIGHTS, "pytorch_model.bin", "model.py", "README.md", "original/consolidated.00.pth"],
            "",
            WEIGHTS,
            id="neither pickles nor code",
        ),
        pytest.param([*WEIGHTS, "consolidated.safetensors"], "", WEIGHTS, id="not the same weights twice"),
        pytest.param(["config.json", "consolidated.safetensors"], "", None, id="unless there are no others"),
        pytest.param([*WEIGHTS, "m.gguf"], "", WEIGHTS, id="safetensors before GGUF"),
        pytest.param(["m.gguf", "README.md"], "", ["m.gguf"], id="the only GGUF file"),
        pytest.param(["a.gguf", "b.gguf"], "b.gguf", ["b.gguf"], id="a GGUF file by its name"),
        pytest.param(["q4/m.gguf", "q8/m.gguf"], "q8/m.gguf", ["m.gguf"], id="a GGUF file in a folder"),
        pytest.param(["a/config.json", "a/m.safetensors", *WEIGHTS], "a", ["config.json", "m.safetensors"],
                     id="a folder"),
    ],
)  # fmt: skip
def test_what_is_taken(paths: list[str], path: str, expected: list[str] | None) -> None:
    found = wanted(listed(*paths), path, "hf://org/m")
    assert sorted(file.path for file in found) == sorted(expected or paths)


@pytest.mark.parametrize(
    ("paths", "path", "words"),
    [
        (["config.json", "pytorch_model.bin"], "", r"its weights are pickled \(pytorch_model.bin\)"),
        (["a.gguf", "b.gguf"], "", r"several GGUF files \(a.gguf, b.gguf\); add #FILE to choose one"),
        (["README.md"], "", "neither config.json with safetensors nor a GGUF file, it holds README.md"),
        (["a.gguf"], "b.gguf", "holds no file b.gguf; it holds a.gguf"),
        ([], "", "it is empty"),
    ],
)
def test_what_is_no_model_is_told_with_what_is_there(paths: list[str], path: str, words: str) -> None:
    with pytest.raises(ModelNotFound, match=words):
        wanted(listed(*paths), path, "hf://org/m")
