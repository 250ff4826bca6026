"""Models with products and KV cache in FP8, on the CPU, against transformers computing the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests.engine.runner.driver import Driver, distributions, loaded_runner, step_input
from tests.engine.runner.fp8_checkpoints import (
    FORMATS,
    compressed,
    logprobs_of,
    reference_logprobs,
    write,
)
from tests.engine.runner.layers.test_parallel import ThreadGroup, on_ranks
from tests.engine.runner.tiny_models import VOCAB, prompt, save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, QuantizationMethod
from octavo_engine.errors import ConfigError, ModelError
from octavo_engine.runner import placement
from octavo_engine.runner.kernels.fp8 import dequantize, quantize
from octavo_engine.runner.model_runner import ModelRunner
from octavo_engine.runner.parallel.seat import Seat
from octavo_engine.sampling_params import SamplingParams

EVERYTHING = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
TOKENS = prompt(23, seed=3)
# A number that lies between two of e4m3 may be rounded to either, as sums are made in another order.
MEAN_ERROR, LARGEST_ERROR = 8e-3, 0.3


def found_logprobs(runner: ModelRunner, chunk: int = 7) -> NDArray[np.float64]:
    (seq,) = Driver(runner).generate([TOKENS], EVERYTHING, count=1, chunk=chunk)
    return distributions(seq, VOCAB)


def agree(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
    error = np.abs(found - wanted[: len(found)])
    assert error.mean() < MEAN_ERROR
    assert error.max() < LARGEST_ERROR


@pytest.mark.parametrize("method", ["fp8", "fp8_per_tensor"])
@pytest.mark.parametrize("family", ["llama3", "qwen3", "biased"])
def test_weights_quantized_at_load(family: str, method: QuantizationMethod, tmp_path: Path) -> None:
    folder = save(family, tmp_path)
    weights = load_file(folder / "model.safetensors")
    for name, x in weights.items():
        if name.endswith("_proj.weight"):
            scale = x.abs().max() / 448 if method == "fp8_per_tensor" else None
            weights[name] = dequantize(quantize(x, scale), torch.float32)
    wanted = logprobs_of(folder, weights, lambda name: name.endswith("_proj"), None, TOKENS)
    plain = found_logprobs(loaded_runner(folder))
    found = found_logprobs(loaded_runner(folder, quantization=method))
    agree(found, wanted)
    assert np.abs(found - plain).mean() > 5 * np.abs(found - wanted[: len(found)]).mean()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_checkpoint_in_fp8(kind: str, tmp_path: Path) -> None:
    folder = write(save("llama3", tmp_path), kind)
    agree(found_logprobs(loaded_runner(folder)), reference_logprobs(folder, kind, TOKENS))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_come_near(dtype: Any, tmp_path: Path) -> None:
    folder = save("llama3", tmp_path)
    wanted = found_logprobs(loaded_runner(folder, quantization="fp8"))
    found = found_logprobs(loaded_runner(folder, quantization="fp8", dtype=dtype))
    assert np.abs(found - wanted).mean() < 0.25


def test_the_checkpoints_own_method_may_be_named(tmp_path: Path) -> None:
    folder = write(save("llama3", tmp_path), "compressed-tensors")
    for name in ("compressed-tensors", "fp8"):
        loaded_runner(folder, quantization=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_a_cache_in_fp8_costs_little_accuracy_and_half_the_memory(
    quantization: QuantizationMethod | None, tmp_path: Path
) -> None:
    folder = save("llama3", tmp_path)
    plain = loaded_runner(folder, quantization=quantization, dtype="bfloat16")
    small = loaded_runner(folder, quantization=quantization, dtype="bfloat16", cache_dtype="fp8")
    assert 2 * small.load().bytes_per_block == plain.load().bytes_per_block
    wanted = found_logprobs(loaded_runner(folder, quantization=quantization))
    found = found_logprobs(loaded_runner(folder, quantization=quantization, cache_dtype="fp8"))
    assert 0 < np.abs(found - wanted).mean() < 0.3


@pytest.mark.parametrize("place", ["k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale"])
def test_the_scales_of_a_cache_come_from_the_checkpoint(place: str, tmp_path: Path) -> None:
    """Keys that are too large for e4m3 by far need one."""
    folder = save("llama2", tmp_path)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("k_proj.weight"):
            weights[name] *= 1000
        elif name.endswith("q_proj.weight"):
            weights[name] /= 1000
    save_file(weights, folder / "model.safetensors")
    wanted = found_logprobs(loaded_runner(folder))
    without = found_logprobs(loaded_runner(folder, cache_dtype="fp8"))
    scales = {f"model.layers.{layer}.self_attn.{place}": torch.tensor(20.0) for layer in range(3)}
    save_file(weights | scales, folder / "model.safetensors")
    found = found_logprobs(loaded_runner(folder, cache_dtype="fp8"))
    assert np.abs(found - wanted).mean() < 0.15 < np.abs(without - wanted).mean()


def test_blocks_in_fp8_are_copied_and_swapped_whole(tmp_path: Path) -> None:
    """A sequence goes on with a copy of its block, and with blocks that were on the host meanwhile."""
    folder = save("llama3", tmp_path)
    runner = loaded_runner(folder, cache_dtype="fp8", host_blocks=8)
    wanted = Driver(runner).generate([TOKENS], EVERYTHING, count=3)[0]
    driver = Driver(loaded_runner(folder, cache_dtype="fp8", host_blocks=8))
    seq = driver.add(TOKENS, EVERYTHING)
    driver.step((seq, len(TOKENS)))
    moves = [(block, host) for host, block in enumerate(seq.blocks)]
    driver.runner.launch(step_input(90, swap_out=moves))
    driver.runner.collect()
    fresh = [block for block in range(64) if block not in seq.blocks][: len(seq.blocks)]
    back = [(host, block) for (_, host), block in zip(moves, fresh, strict=True)]
    changes = [(seq.seq_id, index, block) for index, block in enumerate(fresh)]
    driver.runner.launch(step_input(91, swap_in=back, block_changes=changes))
    driver.runner.collect()
    spare = next(block for block in range(64) if block not in {*fresh, *seq.blocks})
    copied = [(fresh[0], spare)]
    driver.runner.launch(step_input(92, copies=copied, block_changes=[(seq.seq_id, 0, spare)]))
    driver.runner.collect()
    seq.blocks = [spare, *fresh[1:]]
    for _ in range(2):
        driver.step((seq, 1))
    np.testing.assert_array_equal(distributions(seq, VOCAB), distributions(wanted, VOCAB))


@pytest.mark.parametrize("kind", ["compressed-static", "compressed-tensors"])
def test_ranks_share_weights_with_their_scales(kind: str, tmp_path: Path) -> None:
    """With scales of the checkpoint alone two ranks compute what one does; a token's own is its rank's."""
    folder = write(save("llama3", tmp_path), kind)
    whole = found_logprobs(loaded_runner(folder))

    def run(group: ThreadGroup) -> NDArray[np.float64]:
        model = ModelConfig(source=str(folder), dtype="float32", device="cpu")
        config = EngineConfig(model=model, cache=CacheConfig(block_size=4, num_blocks=64))
        runner = ModelRunner(config, Seat(group=group))
        runner.load()
        runner.allocate(64, 0)
        return found_logprobs(runner)

    for found in on_ranks(2, run):
        error = np.abs(found - whole)
        assert error.mean() < (MEAN_ERROR if kind == "compressed-static" else 0.15)


def changed(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    return folder


def without(folder: Path, ending: str) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: x for n, x in tensors.items() if not n.endswith(ending)}, folder / "model.safetensors")
    return folder


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
WEIGHTS_ONLY = compressed(input_activations=None)
INT4 = compressed(weights={"num_bits": 4, "type": "int", "strategy": "group", "symmetric": True})
TWO = compressed() | {"config_groups": {"a": compressed(), "b": compressed()}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "the method 'gptq', which is not built; known are"),
        (BLOCKS, r"a scale for each block of \[128, 128\] weights"),
        ({"quant_method": "fp8", "activation_scheme": "guessed"}, "activation_scheme 'guessed'"),
        (WEIGHTS_ONLY, "activations as None"),
        (INT4, "weights as {'num_bits': 4"),
        (TWO, "several groups of layers"),
        (compressed() | {"format": "pack-quantized"}, "format 'pack-quantized'"),
        ({"quant_method": "compressed-tensors"}, "lacks or misstates 'format'"),
    ],
)
def test_another_quantization_is_refused_with_a_sentence(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        loaded_runner(changed(save("llama2", tmp_path), settings))


@pytest.mark.parametrize(
    ("kind", "ending", "words"),
    [
        ("fp8", "0.mlp.up_proj.weight_scale", r"up_proj.weight in FP8 and lacks its scale, model.layers.0"),
        (
            "fp8-static",
            "1.self_attn.o_proj.input_scale",
            "lacks its scale, model.layers.1.self_attn.o_proj.input",
        ),
    ],
)
def test_a_missing_scale_is_named(kind: str, ending: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        loaded_runner(without(write(save("llama2", tmp_path), kind), ending))


def test_scales_of_a_wrong_number_are_named(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight_scale"
    folder = write(save("llama2", tmp_path), "compressed-tensors", **{name: torch.ones(5)})
    with pytest.raises(ModelError, match="has 96 rows and 5 scales"):
        loaded_runner(folder)


def test_fp8_without_a_word_in_the_config_is_refused(tmp_path: Path) -> None:
    folder = changed(write(save("llama2", tmp_path), "fp8"), {})
    with pytest.raises(ModelError, match=r"is in FP8, and the quantization_config .* does not say so"):
        loaded_runner(folder)


def test_half_of_a_fused_product_cannot_be_spared(tmp_path: Path) -> None:
    settings = compressed() | {"ignore": ["model.layers.0.self_attn.k_proj"]}
    with pytest.raises(ModelError, match=r"quantizes some of .*k_proj"):
        loaded_runner(changed(save("llama2", tmp_path), settings))


@pytest.mark.parametrize(
    ("asked", "stored", "words"),
    [
        ("fbgemm_fp8", None, "this one is not quantized; use fp8 or fp8_per_tensor"),
        ("fp8_per_tensor", "compressed-tensors", "does not fit the checkpoint, .* by compressed-tensors"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(
    asked: QuantizationMethod, stored: str | None, words: str, tmp_path: Path
) -> None:
    folder = save("llama2", tmp_path)
    if stored:
        write(folder, stored)
    with pytest.raises(ConfigError, match=words):
        loaded_runner(folder, quantization=asked)


def test_an_older_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(placement.torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"--kv-cache-dtype fp8 needs .* 8\.9 .* NVIDIA A100 has 8\.0"):
        placement.choose_cache_dtype(CacheConfig(dtype="fp8"), torch.device("cuda"))


def test_dummy_weights_may_be_in_fp8(tmp_path: Path) -> None:
    folder = save("llama2", tmp_path)
    model = ModelConfig(source=str(folder), load_format="dummy", dtype="float32", quantization="fp8")
    config = EngineConfig(model=model, cache=CacheConfig(block_size=4, num_blocks=64, dtype="fp8"))
    runner = ModelRunner(msgspec.structs.replace(config))
    runner.load()
    runner.allocate(64, 0)
    assert np.isfinite(found_logprobs(runner)).all()
