"""Compiles kernels for an H100, which takes no GPU; run as a program, as tests of kernels interpret them.

The interpreter is Python: it lets pass what the compiler refuses, such as a name that changes its type.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from octavo_engine.runner.kernels.triton import decode, fp8, fp8_products, gemv, norm, prefill, rope

HOPPER = GPUTarget("cuda", 90, 32)
_INTEGERS = ["rows", "columns", "inner", "stride", "width", "hidden", "window", "splits", "num_tiles"]


def types(kernel: Any, constants: dict[str, Any], **pointers: str) -> dict[str, str]:
    """A type for each argument: ``pointers`` by name, constants, integers and strides, else float32."""
    found = {}
    for name in kernel.arg_names:
        if name in constants:
            found[name] = "constexpr"
        elif name in pointers:
            found[name] = f"*{pointers[name]}"
        else:
            found[name] = "i32" if name in _INTEGERS or name.endswith("_stride") else "fp32"
    return found


def compile_one(
    kernel: Any, constants: dict[str, Any], warps: int = 4, stages: int = 3, **pointers: str
) -> None:
    signature = types(kernel, constants, **pointers)
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name] == "i32" or signature[name].startswith("*")
    }
    overlapped = bool(constants.get("overlapped"))
    options = {"num_warps": warps, "num_stages": stages, "launch_pdl": overlapped}
    triton.compile(ASTSource(kernel, signature, values, aligned), target=HOPPER, options=options)
    print(kernel.__name__, {name: kind for name, kind in pointers.items() if "8" in kind})


def products() -> None:
    shape = {"biased": True, "overlapped": True, "kind": "silu"}
    buffers = {"out": "bf16", "partials": "fp32", "counters": "i32"}
    for rows, columns, inner, splits in ((1, 16, 512, 1), (16, 64, 256, 4)):
        sizes = {"row_block": rows, "block_n": columns, "block_k": inner, "splits": splits}
        plain = {"x": "bf16", "weight": "bf16", "bias": "bf16"}
        compile_one(gemv._gemv_kernel, shape | sizes, **plain, **buffers)
        quantized = {
            "x": "fp8e4nv",
            "weight": "fp8e4nv",
            "x_scales": "fp32",
            "w_scales": "fp32",
            "bias": "bf16",
        }
        compile_one(fp8_products._fp8_kernel, shape | sizes | {"even": False}, **quantized, **buffers)


def rows() -> None:
    outputs = {"out": "fp8e4nv", "scales": "fp32"}
    constants = {"block": 4096, "summed": True, "quantized": True, "overlapped": True}
    compile_one(norm._norm_kernel, constants, 8, x="bf16", residual="bf16", weight="bf16", **outputs)
    for static in (False, True):
        constants = {"block": 4096, "kind": "silu", "static": static, "overlapped": True}
        compile_one(fp8._quantize_kernel, constants, 8, x="bf16", given="fp32", **outputs)


def attention(cache: str) -> None:
    heads = {"share": 4, "dim": 128, "dim_block": 128, "block_size": 16, "tile": 64}
    common = {"q": "bf16", "keys": cache, "values": cache, "tables": "i32", "out": "bf16"}
    common |= {"partials": "fp32", "peaks": "fp32", "counters": "i32"}
    flags = {"windowed": True, "capped": True}
    more = {"members": 4, "split_up": True, "overlapped": True}
    compile_one(decode._decode_kernel, heads | flags | more, contexts="i32", **common)
    more = {"tokens": 16, "rows": 64}
    compile_one(prefill._prefill_kernel, heads | flags | more, tiles="i32", **common)
    constants = {"heads": 32, "kv_heads": 8, "dim": 128, "half_block": 64, "group": 8, "normed": True}
    constants |= {"quantized": cache != "bf16", "overlapped": True}
    buffers = {"qkv": "bf16", "out": "bf16", "cos": "fp32", "sin": "fp32", "k_cache": cache, "v_cache": cache}
    weights = {"q_weight": "bf16", "k_weight": "bf16", "slots": "i64"}
    compile_one(rope._rope_kernel, constants, **buffers, **weights)


def main() -> None:
    products()
    rows()
    attention("bf16")
    attention("fp8e4nv")


if __name__ == "__main__":
    sys.exit(main())
