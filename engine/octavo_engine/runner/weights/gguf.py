"""GGUF files: tensors dequantized once at load, with the ``gguf`` package's vectorized dequantizers.

llama.cpp permutes the rows of the query and key projections for its rotary embedding; that is undone here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.runner.weights.slots import Shard

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PERMUTED = (".q_proj.", ".k_proj.")


def open_gguf(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise ModelError(f"{path} is not a sound GGUF file: {error}.") from error


class GGUFSource:
    """A checkpoint over one GGUF file, under transformers' tensor names."""

    def __init__(self, reader: gguf.GGUFReader, head_dim: int) -> None:
        self._head_dim = head_dim
        found = {_transformers_name(tensor.name): tensor for tensor in reader.tensors}
        self._tensors: dict[str, Any] = {name: tensor for name, tensor in found.items() if name}

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        tensor = self._tensors[name]
        rows = slice(shard.start, shard.start + shard.length) if shard and dim == 0 else slice(None)
        values = _dequantize(name, tensor.data[rows], tensor.tensor_type)
        if any(mark in name for mark in _PERMUTED):
            values = unpermute(values, self._head_dim)
        found = torch.from_numpy(values)
        return found.narrow(dim, shard.start, shard.length) if shard and dim else found


def unpermute(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """[heads * head_dim, ...] from llama.cpp's interleaved pairs back to rotated halves."""
    paired = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(values.shape)


def rope_factors(reader: gguf.GGUFReader) -> list[float] | None:
    """The divisors of the inverse frequencies, which stand in a tensor of their own (Llama 3.1 and later)."""
    found = next((tensor for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    return None if found is None else [float(value) for value in found.data]


def _dequantize(name: str, data: NDArray[Any], kind: gguf.GGMLQuantizationType) -> NDArray[np.float32]:
    try:
        values = np.asarray(gguf.dequantize(data, kind), dtype=np.float32)
    except NotImplementedError as error:
        raise ModelError(
            f"Tensor {name} is quantized as {kind.name}, which cannot be read: {error}."
        ) from error
    return values if values.flags.writeable else values.copy()  # a view of the file's pages otherwise


def _transformers_name(name: str) -> str | None:
    found = _BLOCK.fullmatch(name)
    if found:
        layer, part, kind = found.groups()
        return f"model.layers.{layer}.{_PARTS[part]}.{kind}" if part in _PARTS else None
    stem, _, kind = name.rpartition(".")
    return f"{_TOP[stem]}.{kind}" if stem in _TOP else None
