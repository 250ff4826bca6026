import pytest
import torch

from octavo_engine.runner.kernels.activation import gate
from octavo_engine.runner.kernels.triton.gemv import (
    GemvConfig,
    GemvScratch,
    SmallProducts,
    choose_config,
    gemv,
)


def check(
    rows: int,
    columns: int,
    inner: int,
    config: GemvConfig,
    dtype: torch.dtype,
    device: torch.device,
    bias: bool,
    kind: str = "silu",
) -> None:
    x = torch.randn(rows, inner, dtype=dtype, device=device)
    weight = (torch.randn(columns, inner, device=device) * inner**-0.5).to(dtype)
    shift = torch.randn(columns, dtype=dtype, device=device) if bias else None
    scratch = GemvScratch.allocate(columns, 4, device)
    wanted = x.double() @ weight.double().T + (0 if shift is None else shift.double())
    found = gemv(x, weight, shift, config, scratch)
    error = ((found.double() - wanted).norm() / wanted.norm()).item()
    assert error < {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    assert not scratch.counters.any()
    gated = gate(found.clone(), kind).double()
    fused = gemv(x, weight, shift, config, scratch, kind).double()
    assert ((fused - gated).norm() / gated.norm()).item() < {torch.float32: 1e-5}.get(dtype, 1e-2)


@pytest.mark.parametrize(
    ("rows", "splits", "bias"),
    [
        (1, 1, True),
        (1, 3, False),
        (7, 1, False),
        (7, 3, True),
        (16, 2, False),
        (17, 2, True),
        (70, 1, False),
    ],
)
def test_product_is_the_reference(rows: int, splits: int, bias: bool, device: torch.device) -> None:
    check(rows, 100, 330, GemvConfig(16, 64, splits, dot=rows > 2), torch.float32, device, bias)


@pytest.mark.parametrize("kind", ["gelu_tanh", "gelu"])
def test_the_gated_product_knows_gelu(kind: str, device: torch.device) -> None:
    check(3, 64, 96, GemvConfig(16, 64, 2), torch.float32, device, True, kind)


@pytest.mark.parametrize("shape", [(16, 16), (96, 1000), (130, 64)])
def test_odd_shapes(shape: tuple[int, int], device: torch.device) -> None:
    for rows in (1, 5):
        check(rows, *shape, GemvConfig(32, 128, 2), torch.float16, device, False)


LLAMA_8B = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
QWEN3_600M = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", LLAMA_8B + QWEN3_600M)
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 32, 33, 64, 65, 100, 128])
def test_chosen_ways_fit_the_device(rows: int, shape: tuple[int, int], device: torch.device) -> None:
    x = torch.randn(rows, shape[1], dtype=torch.bfloat16, device=device)
    weight = torch.randn(*shape, dtype=torch.bfloat16, device=device) * shape[1] ** -0.5
    products = SmallProducts(device)
    wanted = x.float() @ weight.float().T
    assert ((products.linear(x, weight).float() - wanted).norm() / wanted.norm()).item() < 5e-3
    gated = gate(wanted.to(x.dtype), "silu").float()
    assert ((products.gated(x, weight).float() - gated).norm() / gated.norm()).item() < 2e-2


def test_many_rows_are_left_to_torch() -> None:
    assert choose_config(129, 28672, 4096) is None
    assert choose_config(0, 28672, 4096) is None


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (1152, 576)])
@pytest.mark.parametrize("rows", [1, 2, 8, 16])
@pytest.mark.parametrize(
    "config",
    [GemvConfig(16, 256), GemvConfig(16, 256, dot=False), GemvConfig(32, 128, 4), GemvConfig(64, 64, 2)],
)
def test_real_sizes(rows: int, shape: tuple[int, int], config: GemvConfig, device: torch.device) -> None:
    check(rows, *shape, config, torch.bfloat16, device, False)
