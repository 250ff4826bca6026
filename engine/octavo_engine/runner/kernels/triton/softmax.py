"""One step of online softmax (Milakov & Gimelshein 2018; Dao et al. 2022), for both attention kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_tile(q, k, v, visible, acc, top, total, scale, cap, capped: tl.constexpr, masked: tl.constexpr):
    """Fold keys ``k`` and values ``v`` [tile, dim] into (acc [rows, dim], top [rows], total [rows]).

    Scores are in powers of two: ``scale`` holds log2(e), and with ``capped`` they are ``cap * tanh(q k
    scale)``, ``cap`` holding log2(e) instead. ``visible`` [rows, tile] is looked at only when ``masked``.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if capped:
        scores = cap * (2 * tl.sigmoid(2 * scores) - 1)
    if masked:
        scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, axis=1))
    # A row that has seen no key yet has no finite maximum; 0 keeps exp2 away from inf - inf.
    pivot = tl.where(higher == float("-inf"), 0.0, higher) if masked else higher
    weights = tl.exp2(scores - pivot[:, None])
    keep = tl.exp2(top - pivot)
    total = total * keep + tl.sum(weights, axis=1)
    acc = tl.dot(weights.to(v.dtype), v, acc * keep[:, None], input_precision="ieee")
    return acc, higher, total


@triton.jit
def operand(q, cache):
    """Queries in the dtype in which they meet what lies in ``cache``.

    FP8 numbers are exact in float16, and the GPU turns them into it faster than into bfloat16.
    """
    if cache.dtype.element_ty == tl.float8e4nv and q.dtype == tl.bfloat16:
        q = q.to(tl.float16)
    return q


@triton.jit
def cache_rows(table, positions, visible, block_size: tl.constexpr, block_stride, slot_stride):
    """Element offsets of the cache rows (of head 0) that hold the tokens at ``positions``, as int64.

    Strides come in as arguments of the kernel, whose known divisibility lets a row be read 16 bytes at a
    time.
    """
    blocks = tl.load(table + positions // block_size, mask=visible, other=0).to(tl.int64)
    return blocks * block_stride + (positions % block_size) * slot_stride
