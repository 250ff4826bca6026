import pytest
import torch

from octavo_engine.runner.kernels import norm as reference
from octavo_engine.runner.kernels.triton.norm import add_rms_norm, rms_norm

SHAPES = [(1, 64), (3, 576), (7, 1000), (0, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal within a few roundings of the dtype."""
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[wanted.dtype]
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_is_the_reference(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    x, weight = (
        torch.randn(shape, dtype=dtype, device=device),
        torch.randn(shape[1], dtype=dtype, device=device),
    )
    close(rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_of_a_sum_is_the_reference_and_updates_the_residual(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    x, residual = torch.randn(2, *shape, dtype=dtype, device=device)
    weight = torch.randn(shape[1], dtype=dtype, device=device)
    wanted, total = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    normed, updated = add_rms_norm(x, residual, weight, 1e-5)
    assert updated is residual
    close(normed, wanted)
    close(residual, total)


def test_norm_reads_rows_that_lie_apart(device: torch.device) -> None:
    wide, weight = torch.randn(5, 300, device=device), torch.randn(100, device=device)
    close(rms_norm(wide[:, 100:200], weight, 1e-6), reference.rms_norm(wide[:, 100:200], weight, 1e-6))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [2048, 4096, 5120, 8192, 16384])
@pytest.mark.parametrize("tokens", [1, 16, 256, 4000])
def test_norm_of_real_sizes(tokens: int, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
    x, residual = torch.randn(2, tokens, hidden, dtype=dtype, device=device)
    weight = torch.randn(hidden, dtype=dtype, device=device)
    wanted, _ = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    close(add_rms_norm(x, residual, weight, 1e-5)[0], wanted)
