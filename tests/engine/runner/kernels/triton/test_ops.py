"""Both tables of operators, on the same input."""

import numpy as np
import pytest
import torch

from octavo_engine.errors import ModelError
from octavo_engine.runner.kernels.attention import SequenceLayout
from octavo_engine.runner.kernels.ops import HeadShape, Operators, operators, torch_operators
from octavo_engine.runner.kernels.triton.table import triton_operators

SHAPE = HeadShape(heads=6, kv_heads=2, head_dim=64)
TOKENS, HIDDEN = 12, 96


def layer(ops: Operators, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """An attention layer and a gated product of one decode and one chunk of 11 tokens."""
    layout = SequenceLayout(
        np.array([[3, 1], [0, 2]], dtype=np.int32), np.array([20, 11]), np.array([1, 11]), 1, 16, 64
    )
    x, residual = ops.add_rms_norm(given["x"], given["residual"].clone(), given["scale"], 1e-5)
    qkv = ops.linear(x, given["qkv"], given["bias"]).view(TOKENS, -1, SHAPE.head_dim)
    caches = given["caches"].clone()
    q = ops.rope_and_cache(qkv, given["cos"], given["sin"], caches[0], caches[1], given["slots"])
    attended = ops.paged_attention(q, caches[0], caches[1], ops.plan_attention(layout, (16,))[16], 0.125)
    x = ops.gated(ops.linear(attended.flatten(1), given["out"], None), given["gate_up"], None, "silu")
    return ops.rms_norm(x + residual, given["scale"], 1e-5)


def test_a_layer_of_kernels_is_a_layer_of_torchs_operators(device: torch.device) -> None:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device)

    angle = 6 * torch.rand(TOKENS, 1, SHAPE.head_dim // 2, device=device)
    given = {
        "x": random(TOKENS, HIDDEN),
        "residual": random(TOKENS, HIDDEN),
        "scale": random(HIDDEN),
        "qkv": random(640, HIDDEN),
        "bias": random(640),
        "caches": random(2, 4, 16, SHAPE.kv_heads, SHAPE.head_dim),
        "cos": angle.cos(),
        "sin": angle.sin(),
        "slots": torch.tensor([19, *range(11)], device=device),
        "out": 0.05 * random(HIDDEN, 384),
        "gate_up": 0.1 * random(2 * HIDDEN, HIDDEN),
    }
    wanted = layer(torch_operators(device), given)
    torch.testing.assert_close(layer(triton_operators(device, SHAPE), given), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_a_gpu_gets_the_kernels(device: torch.device) -> None:
    assert operators(device, SHAPE).rms_norm is not torch_operators(device).rms_norm


def test_a_cpu_gets_the_reference() -> None:
    cpu = torch.device("cpu")
    assert operators(cpu, SHAPE).rms_norm is torch_operators(cpu).rms_norm


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (HeadShape(4, 4, 8), "heads have 8 values; on a GPU they must be a multiple of 16"),
        (HeadShape(4, 4, 512), "heads have 512 values"),
        (HeadShape(71, 1, 64), "71 of the model's query heads share a KV head; on a GPU at most 64"),
    ],
)
def test_heads_that_the_kernels_are_not_made_for_are_refused(shape: HeadShape, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        operators(torch.device("cuda"), shape)
