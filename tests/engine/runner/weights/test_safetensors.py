"""Checkpoint folders: sharded files, and the sentences for unsound ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.runner.driver import GREEDY, Driver, loaded_runner
from tests.engine.runner.tiny_models import prompt, save

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.errors import ConfigError, EngineError, ModelError, ModelNotFound
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.runner.weights.safetensors import SafetensorsSource
from octavo_engine.runner.weights.slots import Shard


def test_a_checkpoint_in_many_files_gives_the_same_tokens_as_in_one(tmp_path: Path) -> None:
    one, many = save("llama3", tmp_path / "one"), save("llama3", tmp_path / "many", max_shard_size="40KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    tokens = [prompt(12, seed=1)]
    outputs = [Driver(loaded_runner(folder)).generate(tokens, GREEDY, 8)[0].output for folder in (one, many)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(("dim", "cut"), [(0, np.s_[8:24]), (1, np.s_[:, 8:24])], ids=["rows", "columns"])
def test_a_shard_is_the_slice_of_the_whole(dim: int, cut: slice, tmp_path: Path) -> None:
    source = SafetensorsSource(save("llama2", tmp_path))
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(source.read(name, dim, Shard(8, 16)), source.read(name, dim, None)[cut])


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def with_missing_shards(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_damaged_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def with_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def with_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (without_weights, ModelNotFound, r"holds no \.safetensors file"),
        (with_damaged_weights, ModelError, "not a sound safetensors file"),
        (with_missing_shards, ModelNotFound, "model-00001-of-00002.safetensors"),
        (with_damaged_index, ModelError, "not a sound index"),
        (with_damaged_config, ModelError, "cannot be read as JSON"),
        (with_config(architectures=["GPT2LMHeadModel"]), ModelError, "known are LlamaForCausalLM, Mistral"),
        (with_config(vocab_size=None), ModelError, "lacks or misstates"),
        (
            with_config(vocab_size=200),
            ModelError,
            r"is \[96, 64\], and the model's config asks for \[200, 64\]",
        ),
        (with_config(num_hidden_layers=4), ModelError, "lacks 9 of 39 tensors, such as model.layers.3"),
        (
            with_config(rope_parameters={"rope_type": "spiral"}),
            ModelError,
            "'spiral' is not known; known are",
        ),
        (with_config(rope_parameters={"rope_type": "linear"}), ModelError, "lacks the setting 'factor'"),
    ],
)
def test_an_unsound_folder_is_refused_with_a_sentence(
    damage: Callable[[Path], None], error: type[EngineError], words: str, tmp_path: Path
) -> None:
    damage(save("llama2", tmp_path))
    with pytest.raises(error, match=words):
        loaded_runner(tmp_path)


def test_a_load_format_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save("llama2", tmp_path)
    config = EngineConfig(model=ModelConfig(source=str(tmp_path), load_format="gguf"))
    with pytest.raises(ConfigError, match="use --load-format auto or safetensors"):
        ModelRunner(config).load()


def test_dummy_weights_need_only_the_config(tmp_path: Path) -> None:
    without_weights(save("llama2", tmp_path))
    runner = ModelRunner(
        EngineConfig(model=ModelConfig(source=str(tmp_path), load_format="dummy", dtype="float32"))
    )
    runner.load()
    runner.allocate(16, 0)
    (seq,) = Driver(runner, block_size=16, blocks=16).generate([prompt(5, seed=0)], GREEDY, 3)
    assert len(seq.output) == 3
