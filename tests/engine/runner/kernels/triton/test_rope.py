import pytest
import torch
from torch import Tensor

from octavo_engine.runner.kernels.cache import write_kv
from octavo_engine.runner.kernels.fp8 import FP8
from octavo_engine.runner.kernels.norm import rms_norm
from octavo_engine.runner.kernels.ops import torch_operators
from octavo_engine.runner.kernels.rope import apply_rope
from octavo_engine.runner.kernels.triton.rope import rope_and_cache

HEADS = [(1, 1, 64), (9, 3, 64), (4, 4, 80), (7, 1, 96), (28, 4, 128), (2, 1, 256)]


def reference(
    qkv: Tensor, cos: Tensor, sin: Tensor, caches: Tensor, slots: Tensor, weights: Tensor | None = None
) -> Tensor:
    kv_heads = caches.shape[3]
    heads = qkv.shape[1] - 2 * kv_heads
    q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
    if weights is not None:
        q, k = rms_norm(q, weights[0], 1e-6), rms_norm(k, weights[1], 1e-6)
    write_kv(apply_rope(k, cos, sin), v, caches[0], caches[1], slots)
    return apply_rope(q, cos, sin)


def case(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, tokens: int = 5
) -> list[Tensor]:
    heads, kv_heads, dim = shape
    qkv = torch.randn(tokens, heads + 2 * kv_heads, dim, dtype=dtype, device=device)
    angle = torch.rand(tokens, 1, dim // 2, device=device) * 6
    caches = torch.zeros(2, -(-tokens // 8) + 1, 16, kv_heads, dim, dtype=dtype, device=device)
    slots = torch.randperm(16 * caches.shape[1], device=device)[:tokens]
    return [qkv, angle.cos(), angle.sin(), caches, slots]


def check(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, normed: bool, tokens: int
) -> None:
    qkv, cos, sin, caches, slots = case(shape, dtype, device, tokens)
    weights = torch.randn(2, shape[2], dtype=dtype, device=device) if normed else None
    wanted_caches = caches.clone()
    wanted = reference(qkv, cos, sin, wanted_caches, slots, weights)
    more = {"q_weight": weights[0], "k_weight": weights[1], "eps": 1e-6} if weights is not None else {}
    found = rope_and_cache(qkv, cos, sin, caches[0], caches[1], slots, **more)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(caches, wanted_caches, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", HEADS)
def test_queries_keys_and_values_are_the_references(
    shape: tuple[int, int, int], dtype: torch.dtype, normed: bool, device: torch.device
) -> None:
    check(shape, dtype, device, normed, 5)


def test_a_negative_slot_writes_nothing(device: torch.device) -> None:
    qkv, cos, sin, caches, slots = case((4, 2, 64), torch.float32, device)
    rope_and_cache(qkv, cos, sin, caches[0], caches[1], torch.full_like(slots, -1))
    assert not caches.any()


def check_fp8(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, tokens: int = 5) -> None:
    """Stored is what the reference stores, but for numbers that may be rounded to either neighbour."""
    qkv, cos, sin, caches, slots = case(shape, dtype, device, tokens)
    qkv[0, -1, 0] = 1000.0  # too large for e4m3
    found, wanted = caches.to(FP8), caches.to(FP8)
    scales = {"k_scale": 0.25, "v_scale": 2.0}
    rope_and_cache(qkv, cos, sin, found[0], found[1], slots, **scales)
    torch_operators(device).rope_and_cache(qkv, cos, sin, wanted[0], wanted[1], slots, **scales)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0.14, atol=2**-8)
    assert (found.float() - wanted.float()).norm() < 0.05 * wanted.float().norm()
    assert found.float().max() == 448.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 4, 80)])
def test_a_cache_in_fp8_takes_scaled_numbers(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    check_fp8(shape, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 256, 3000])
def test_a_cache_in_fp8_of_real_sizes(tokens: int, device: torch.device) -> None:
    check_fp8((32, 8, 128), torch.bfloat16, device, tokens)


def test_tokens_may_lie_apart(device: torch.device) -> None:
    qkv, cos, sin, caches, slots = case((4, 2, 64), torch.float32, device)
    wide = torch.cat((qkv, torch.randn_like(qkv)), dim=1)[:, :8]
    wanted = rope_and_cache(qkv, cos, sin, caches[0], caches[1], slots)
    assert wide.stride(0) != qkv.stride(0)
    assert torch.equal(rope_and_cache(wide, cos, sin, caches[0], caches[1], slots), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("tokens", [1, 256, 3000])
def test_real_sizes(tokens: int, normed: bool, device: torch.device) -> None:
    check((32, 8, 128), torch.bfloat16, device, normed, tokens)
