import pytest
import torch
import torch.nn.functional as F

from octavo_engine.runner.kernels import activation as reference
from octavo_engine.runner.kernels.triton.activation import gelu_and_mul, silu_and_mul

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 64), (5, 1536), (3, 2050), (0, 8)]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[wanted.dtype]
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_silu_is_the_reference(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    gate_up = 3 * torch.randn(shape, dtype=dtype, device=device)
    close(silu_and_mul(gate_up), reference.gate(gate_up.clone(), "silu"))


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_is_torchs(dtype: torch.dtype, approximate: str, device: torch.device) -> None:
    gate_up = 3 * torch.randn(4, 300, dtype=dtype, device=device)
    gate, up = gate_up.chunk(2, dim=-1)
    wanted = F.gelu(gate, approximate=approximate) * up
    close(gelu_and_mul(gate_up, approximate), wanted)
    close(reference.gate(gate_up.clone(), "gelu_tanh" if approximate == "tanh" else "gelu"), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 8, 256, 4000])
@pytest.mark.parametrize("width", [1536, 14336])
def test_silu_of_real_sizes(tokens: int, width: int, device: torch.device) -> None:
    gate_up = torch.randn(tokens, 2 * width, dtype=torch.bfloat16, device=device)
    close(silu_and_mul(gate_up), reference.gate(gate_up.clone(), "silu"))
