"""GGUF files: tensors are dequantized once at load, by the ``gguf`` package's vectorized dequantizers.

llama.cpp permutes the rows of the query and key projections of some families for its rotary embedding;
that is undone here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.gguf_header import GGUFHeader, TensorInfo
from octavo_engine.runner.weights.slots import Shard

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PERMUTED = (".q_proj.", ".k_proj.")


class GGUFSource:
    """A checkpoint over one memory-mapped GGUF file, under transformers' tensor names."""

    def __init__(self, path: Path, header: GGUFHeader, head_dim: int, *, interleaved: bool = True) -> None:
        self._head_dim, self._permuted = head_dim, _PERMUTED if interleaved else ()
        self._file = np.memmap(path, dtype=np.uint8, mode="r")
        found = {_transformers_name(tensor.name): tensor for tensor in header.tensors}
        self._tensors = {name: tensor for name, tensor in found.items() if name}

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def read(self, name: str, dim: int, shard: Shard | None) -> Tensor:
        rows = slice(shard.start, shard.start + shard.length) if shard and dim == 0 else slice(None)
        values = dequantize(self._file, self._tensors[name], rows)
        if any(mark in name for mark in self._permuted):
            values = unpermute(values, self._head_dim)
        found = torch.from_numpy(values)
        return found.narrow(dim, shard.start, shard.length) if shard and dim else found


def unpermute(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """[heads * head_dim, ...] from llama.cpp's interleaved pairs back to rotated halves."""
    paired = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(values.shape)


def rope_factors(path: Path, header: GGUFHeader) -> list[float] | None:
    """The divisors of the inverse frequencies, which stand in a tensor of their own (Llama 3.1 and later)."""
    found = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    if found is None:
        return None
    values: list[float] = dequantize(np.memmap(path, dtype=np.uint8, mode="r"), found).tolist()
    return values


def dequantize(file: NDArray[np.uint8], tensor: TensorInfo, rows: slice = slice(None)) -> NDArray[np.float32]:
    """``rows`` of a tensor as float32 in memory of its own. Raises ModelError for an unknown type."""
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
        size = math.prod(shape)
        raw = file[tensor.offset : tensor.offset + size].reshape(shape)
        if raw.ndim == 1:  # one row, which is cut as numbers
            return np.require(gguf.dequantize(raw, kind)[rows], np.float32, ["C", "W"])
        return np.require(gguf.dequantize(raw[rows], kind), np.float32, ["C", "W"])
    except (NotImplementedError, ValueError) as error:
        raise ModelError(
            f"Tensor {tensor.name} of the GGUF file (type {tensor.kind}) cannot be read: {error}."
        ) from error


def _transformers_name(name: str) -> str | None:
    found = _BLOCK.fullmatch(name)
    if found:
        layer, part, kind = found.groups()
        return f"model.layers.{layer}.{_PARTS[part]}.{kind}" if part in _PARTS else None
    stem, _, kind = name.rpartition(".")
    return f"{_TOP[stem]}.{kind}" if stem in _TOP else None
