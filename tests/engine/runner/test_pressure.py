"""Nothing is lost under pressure."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.runner.pressure import BLOCKS, FAMILIES, check_pressure, run
from tests.engine.runner.tiny_models import save


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def idle(folder: Path) -> dict[str, list[int]]:
    """The tokens when each request runs alone."""
    found = run(folder, blocks=1000, max_num_seqs=1)
    assert found.stats.preemptions == 0
    return found.tokens


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked prefill", "whole prompts"])
@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_float32_on_a_cpu_gives_the_tokens_of_an_idle_engine(
    folder: Path, idle: dict[str, list[int]], mode: str, chunked: bool
) -> None:
    pressed = run(folder, blocks=BLOCKS, preemption_mode=mode, enable_chunked_prefill=chunked)
    check_pressure(pressed, mode)
    assert pressed.tokens == idle
