from dataclasses import replace

import pytest
import torch
from torch import Tensor

from octavo_engine.runner.kernels.triton import launch
from octavo_engine.runner.kernels.triton.gemv import GemvScratch, choose_config, gemv
from octavo_engine.runner.kernels.triton.norm import add_rms_norm


def chain(x: Tensor, weights: list[tuple[Tensor, Tensor]], scale: Tensor, scratch: GemvScratch) -> Tensor:
    """Layers of two products with a norm between: each kernel reads what the one before it writes."""
    residual = x.clone()
    for wide, narrow in weights:
        x, residual = add_rms_norm(x, residual, scale, 1e-5)
        x = product(product(x, wide, scratch, "silu"), narrow, scratch, "none")
    return residual


def product(x: Tensor, weight: Tensor, scratch: GemvScratch, kind: str) -> Tensor:
    config = choose_config(x.shape[0], *weight.shape)
    assert config is not None
    return gemv(x, weight, None, replace(config, splits=2), scratch, kind)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8])
def test_overlapped_kernels_see_what_the_ones_before_them_wrote(
    rows: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16, device=device)

    weights = [(0.02 * random(4096, 1024), 0.02 * random(1024, 2048)) for _ in range(24)]
    given = (random(rows, 1024), weights, random(1024), GemvScratch.allocate(4096, 2, device))
    with monkeypatch.context() as patch:
        patch.setattr(launch, "overlaps", lambda x: False)
        wanted = chain(*given)
    chain(*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain(*given)
    for _ in range(50):
        found.zero_()
        graph.replay()
        assert torch.equal(found, wanted)
