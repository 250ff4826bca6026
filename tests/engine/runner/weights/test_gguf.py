"""GGUF files written by the gguf package, read back by the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.runner.driver import Driver, distributions, loaded_runner
from tests.engine.runner.tiny_models import VOCAB, build, prompt

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelError
from octavo_engine.gguf_header import read_gguf
from octavo_engine.runner.layers.rotary import inverse_frequencies
from octavo_engine.runner.weights.checkpoint import open_checkpoint
from octavo_engine.runner.weights.gguf import GGUFSource
from octavo_engine.runner.weights.slots import Shard
from octavo_engine.sampling_params import SamplingParams

Kind = gguf.GGMLQuantizationType
QUANTIZABLE = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
K_QUANTS = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name.replace("model.layers.", "blk.")


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """As llama.cpp's converter does to query and key projections."""
    dim = weight.shape[0] // heads
    return np.ascontiguousarray(
        weight.reshape(heads, 2, dim // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_model(path: Path, model: Any, kind: Kind, rope_factors: NDArray[np.float32] | None = None) -> None:
    """Writes ``model`` quantized, and puts the dequantized weights back into it."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_eos_token_id(2)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        turned = config.model_type == "llama" and ("q_proj" in name or "k_proj" in name)
        stored = permuted(values, heads) if turned else values
        used = kind if values.ndim == 2 else Kind.F32
        data = gguf.quantize(stored, used)
        writer.add_tensor(gguf_name(name), data, raw_dtype=used)
        lossy = gguf.dequantize(gguf.quantize(values, used), used)
        parameter.data.copy_(torch.from_numpy(np.array(lossy)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", QUANTIZABLE, ids=lambda kind: kind.name)
def test_a_quantized_model_gives_the_logits_of_its_dequantized_weights(kind: Kind, tmp_path: Path) -> None:
    check_logits(build("llama2"), kind, tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_files_of_other_families_give_their_logits(family: str, tmp_path: Path) -> None:
    check_logits(build(family), Kind.Q8_0, tmp_path)


def check_logits(model: Any, kind: Kind, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", model, kind)
    driver = Driver(loaded_runner(tmp_path / "tiny.gguf"))
    everything = SamplingParams(temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB)
    (seq,) = driver.generate([prompt(20, seed=3)], everything, count=3)
    with torch.inference_mode():
        expected = model(torch.tensor([seq.tokens])).logits[0].log_softmax(-1).numpy()
    found = distributions(seq, VOCAB)
    np.testing.assert_allclose(found, expected[: len(found)], atol=2e-4, rtol=0)


def write_tensor(
    path: Path, data: NDArray[np.uint8], kind: Kind, name: str = "blk.0.ffn_down.weight"
) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("output_norm.weight", np.ones(7, np.float32))  # so that the next one needs alignment
    writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: Kind, rows: int, blocks: int) -> NDArray[np.uint8]:
    """Bytes of random blocks: some scales come out as NaN, which compare equal here."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    found: NDArray[np.uint8] = np.random.default_rng(0).integers(
        0, 256, (rows, blocks * size), dtype=np.uint8
    )
    return found


@pytest.mark.parametrize("kind", K_QUANTS, ids=lambda kind: kind.name)
def test_k_quants_are_read_whole_and_by_shard(kind: Kind, tmp_path: Path) -> None:
    data = random_blocks(kind, rows=6, blocks=2)
    expected = gguf.dequantize(data, kind)
    write_tensor(tmp_path / "k.gguf", data, kind)
    source = GGUFSource(tmp_path / "k.gguf", read_gguf(tmp_path / "k.gguf"), head_dim=4)
    name = "model.layers.0.mlp.down_proj.weight"
    assert source.shape(name) == (6, 512)
    np.testing.assert_array_equal(source.read(name, 0, None).numpy(), expected)
    np.testing.assert_array_equal(source.read(name, 0, Shard(2, 3)).numpy(), expected[2:5])
    np.testing.assert_array_equal(source.read(name, 1, Shard(256, 256)).numpy(), expected[:, 256:])


def test_a_shard_of_a_permuted_projection_is_the_shard_of_the_whole(tmp_path: Path) -> None:
    plain = np.random.default_rng(1).normal(size=(16, 32)).astype(np.float32)
    data = gguf.quantize(permuted(plain, heads=4), Kind.F32)
    write_tensor(tmp_path / "q.gguf", data, Kind.F32, "blk.0.attn_q.weight")
    source = GGUFSource(tmp_path / "q.gguf", read_gguf(tmp_path / "q.gguf"), head_dim=4)
    part = source.read("model.layers.0.self_attn.q_proj.weight", 0, Shard(8, 4))
    np.testing.assert_array_equal(part.numpy(), plain[8:12])


def test_rope_factors_of_a_file_divide_the_frequencies(tmp_path: Path) -> None:
    factors = np.array([1, 1, 2, 4, 8, 8, 8, 8], np.float32)
    write_model(tmp_path / "tiny.gguf", build("llama2"), Kind.F32, factors)
    config = open_checkpoint(ModelConfig(source=str(tmp_path / "tiny.gguf"))).config
    plain = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(inverse_frequencies(config, 128)[0].numpy(), plain / factors, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense, not a model", "does not begin with the letters GGUF"),
        (b"GGUF\x03\x00\x00\x00", "damaged"),
    ],
    ids=["another format", "cut off"],
)
def test_an_unsound_file_is_refused_with_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        open_checkpoint(ModelConfig(source=str(tmp_path / "bad.gguf")))


def test_an_unknown_architecture_names_the_known_one(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="'mamba' is not known; known are llama, qwen2, qwen3"):
        open_checkpoint(ModelConfig(source=str(tmp_path / "other.gguf")))


def test_a_file_cut_off_within_its_tensors_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, build("llama2"), Kind.Q8_0)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelError, match=r"Tensor \S+ of the GGUF file .* cannot be read"):
        loaded_runner(path)
