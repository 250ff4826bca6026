import pytest
import torch
from torch import Tensor

from octavo_engine.runner.kernels import activation
from octavo_engine.runner.kernels import fp8 as reference
from octavo_engine.runner.kernels.fp8 import Quantized
from octavo_engine.runner.kernels.triton import fp8, norm
from octavo_engine.runner.kernels.triton.fp8_products import Fp8Config, Products, fp8_gemv
from octavo_engine.runner.kernels.triton.gemv import GemvScratch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 64), (3, 576), (5, 1000), (0, 64)]


def close(found: Quantized, wanted: Quantized) -> None:
    """The same scales; the same numbers but for those that may be rounded to either of two neighbours.

    Interpreted kernels cut numbers off to bfloat16 instead of rounding them.
    """
    torch.testing.assert_close(found.scales, wanted.scales, rtol=2e-2, atol=0)
    a, b = reference.dequantize(found, torch.float32), reference.dequantize(wanted, torch.float32)
    # Half a step of e4m3 is 1/16 of a number; beneath the normal ones a step is 2**-9.
    torch.testing.assert_close(a, b, rtol=0.14, atol=float(wanted.scales.max()) * 2**-8 if len(b) else 0)
    if a.numel():
        assert (a - b).norm() <= 0.05 * b.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_token_is_scaled_by_its_largest_number(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    x = (torch.randn(shape, device=device) * torch.logspace(-3, 3, shape[0], device=device)[:, None]).to(
        dtype
    )
    close(fp8.quantize(x), reference.quantize(x))


def test_one_scale_for_all_cuts_off_what_is_too_large(device: torch.device) -> None:
    x, scale = 3 * torch.randn(4, 200, device=device), torch.tensor(0.01, device=device)
    found = fp8.quantize(x, scale)
    close(found, reference.quantize(x, scale))
    assert found.values.float().abs().max() == reference.LARGEST


def test_a_token_of_zeros_stays_zero(device: torch.device) -> None:
    found = fp8.quantize(torch.zeros(2, 64, device=device))
    assert not found.values.float().any()
    assert found.scales.gt(0).all()


def test_rows_may_lie_apart(device: torch.device) -> None:
    wide = torch.randn(5, 300, device=device)
    close(fp8.quantize(wide[:, 100:200]), reference.quantize(wide[:, 100:200]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_the_references(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    x, residual = torch.randn(2, *shape, dtype=dtype, device=device)
    weight = torch.randn(shape[1], dtype=dtype, device=device)
    close(norm.rms_norm_fp8(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    wanted, total = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    found, updated = norm.add_rms_norm_fp8(x, residual, weight, 1e-5)
    assert updated is residual
    close(found, wanted)
    torch.testing.assert_close(residual, total)


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh", "gelu"])
@pytest.mark.parametrize("shape", [(1, 96), (3, 1000)])
def test_gates_are_the_references(shape: tuple[int, int], kind: str, device: torch.device) -> None:
    x = torch.randn(shape[0], 2 * shape[1], device=device).bfloat16()
    close(fp8.gate(x, kind), reference.quantize(activation.gate(x.clone(), kind)))


def operands(rows: int, columns: int, inner: int, device: torch.device) -> tuple[Quantized, Quantized]:
    x, weight = torch.randn(rows, inner, device=device), torch.randn(columns, inner, device=device)
    spread = torch.logspace(-1, 1, columns, device=device)[:, None]
    return reference.quantize(x), reference.quantize(weight * spread * inner**-0.5)


def exact(x: Quantized, weight: Quantized, bias: Tensor | None) -> Tensor:
    found = (x.values.double() * x.scales[:, None]) @ (weight.values.double() * weight.scales[:, None]).T
    return found if bias is None else found + bias.double()


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


# Hopper's tensor cores sum up FP8 products with about 14 bits.
TOLERANCE = {torch.float32: 3e-3 if torch.cuda.is_available() else 1e-5, torch.bfloat16: 6e-3}


def check(
    rows: int,
    columns: int,
    inner: int,
    config: Fp8Config,
    dtype: torch.dtype,
    device: torch.device,
    bias: bool,
) -> None:
    x, weight = operands(rows, columns, inner, device)
    shift = torch.randn(columns, dtype=dtype, device=device) if bias else None
    scratch = GemvScratch.allocate(columns, 4, device, 64)
    found = fp8_gemv(x, weight, shift, config, scratch, dtype)
    assert error(found, exact(x, weight, shift)) < TOLERANCE[dtype]
    assert not scratch.counters.any()
    fused = fp8_gemv(x, weight, shift, config, scratch, dtype, "silu")
    assert error(fused, activation.gate(found.clone(), "silu")) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("rows", "splits", "bias"), [(1, 1, True), (1, 3, False), (7, 1, False), (7, 3, True), (33, 2, False)]
)
def test_product_is_exact_up_to_rounding(rows: int, splits: int, bias: bool, device: torch.device) -> None:
    check(rows, 100, 330, Fp8Config(16, 64, splits, dot=rows > 2), torch.float32, device, bias)


@pytest.mark.parametrize("shape", [(16, 32), (96, 1000), (130, 64)])
def test_odd_shapes(shape: tuple[int, int], device: torch.device) -> None:
    for rows in (1, 5):
        check(rows, *shape, Fp8Config(32, 128, 2), torch.bfloat16, device, False)


def test_whole_tiles(device: torch.device) -> None:
    for rows in (1, 5):
        check(rows, 64, 512, Fp8Config(16, 128, 2, dot=rows > 1), torch.float32, device, True)


@pytest.mark.parametrize("rows", [0, 1, 3, 70])
def test_layers_products_are_the_references(rows: int, device: torch.device) -> None:
    x, weight = operands(rows, 192, 64, device)
    bias = torch.randn(192, device=device).bfloat16()
    own, dtype = Products(device), torch.bfloat16
    wanted = reference.linear(x, weight, bias, dtype)
    found = own.linear(x, weight, bias, dtype)
    assert found.shape == wanted.shape
    if not rows:
        return
    assert error(found, wanted) < 1e-2
    gated = reference.gated(x, weight, bias, "silu", dtype)
    assert error(own.gated(x, weight, bias, "silu", dtype), gated) < 2e-2
    quantized = own.gated_quantized(x, weight, bias, "silu", dtype)
    assert error(reference.dequantize(quantized, torch.float32), gated) < 0.04


REAL = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (1152, 576)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", REAL)
@pytest.mark.parametrize("rows", [1, 2, 8, 16, 17, 64])
@pytest.mark.parametrize(
    "config",
    [Fp8Config(64, 256), Fp8Config(16, 512, dot=False), Fp8Config(64, 128, 4), Fp8Config(128, 128, 2)],
)
def test_real_sizes(rows: int, shape: tuple[int, int], config: Fp8Config, device: torch.device) -> None:
    check(rows, *shape, config, torch.bfloat16, device, False)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", REAL)
@pytest.mark.parametrize("rows", [1, 16, 64, 65, 256, 2048])
def test_layers_of_real_sizes(
    rows: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    x, weight = operands(rows, *shape, device)
    bias = torch.randn(shape[0], device=device).to(dtype)
    found = Products(device).linear(x, weight, bias, dtype)
    assert found.dtype is dtype
    assert error(found, exact(x, weight, bias)) < 6e-3


@pytest.mark.gpu
@pytest.mark.parametrize("width", [576, 4096, 14336])
@pytest.mark.parametrize("tokens", [1, 16, 256, 4000])
def test_activations_of_real_sizes(tokens: int, width: int, device: torch.device) -> None:
    x, residual = torch.randn(2, tokens, width, dtype=torch.bfloat16, device=device)
    weight = torch.randn(width, dtype=torch.bfloat16, device=device)
    close(fp8.quantize(x), reference.quantize(x))
    close(norm.rms_norm_fp8(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    wanted, _ = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    close(norm.add_rms_norm_fp8(x, residual, weight, 1e-5)[0], wanted)
    both = torch.cat((x, residual), dim=1)
    close(fp8.gate(both, "silu"), reference.quantize(activation.gate(both.clone(), "silu")))


@pytest.mark.gpu
def test_a_captured_product_waits_for_nothing(device: torch.device) -> None:
    x, weight = operands(8, 6144, 4096, device)
    products = Products(device)
    eager = products.linear(x, weight, None, torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = products.linear(x, weight, None, torch.bfloat16)
    graph.replay()
    assert torch.equal(found, eager)
