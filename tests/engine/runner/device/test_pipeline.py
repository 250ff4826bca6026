"""Two stages of a pipeline with the kernels and graphs of a GPU, in one process."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec
import pytest
import torch
from tests.engine.runner.device.test_steps import INTERPRETED, alone, configuration
from tests.engine.runner.driver import GREEDY, Driver
from tests.engine.runner.tiny_models import prompt, save
from torch import Tensor

from octavo_engine.config import ParallelConfig
from octavo_engine.messages import SampledToken, StepInput, StepResult
from octavo_engine.runner import model_runner
from octavo_engine.runner.device import chunks
from octavo_engine.runner.kernels.triton.table import triton_operators
from octavo_engine.runner.model_runner import ModelRunner, Seat
from octavo_engine.runner.parallel.pipe import Pipe
from octavo_engine.runner.parallel.topology import places


class TwoStages:
    """Launches each step on both stages; the second one's tokens reach the first with the next step."""

    def __init__(self, stages: list[ModelRunner]) -> None:
        self._stages = stages
        self._tokens: list[tuple[int, int, int]] = []
        self._launched: deque[StepInput] = deque()

    def launch(self, step: StepInput) -> None:
        self._launched.append(step)
        for stage in self._stages:
            stage.launch(msgspec.structs.replace(step, tokens=self._tokens))
        self._tokens = []

    def collect(self) -> StepResult:
        results, step = [stage.collect() for stage in self._stages], self._launched.popleft()
        ends = {s.seq_id: s.num_computed_tokens + s.num_new_tokens for s in step.sequences}
        tokens: list[SampledToken] = results[-1].tokens
        self._tokens += [(t.seq_id, ends[t.seq_id], t.token_id) for t in tokens if t.token_id >= 0]
        return results[-1]


def test_two_stages_answer_as_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    folder = save("mistral", tmp_path, **INTERPRETED | {"num_hidden_layers": 2})
    prompts = [prompt(n, seed=n) for n in (3, 17, 9)]
    expected = [alone(folder, tokens, GREEDY, 5) for tokens in prompts]
    between: deque[Tensor] = deque()
    monkeypatch.setattr(chunks, "_MOST_SEQUENCES", 4)
    monkeypatch.setattr(Pipe, "first", property(lambda pipe: pipe._before == 0))
    monkeypatch.setattr(Pipe, "last", property(lambda pipe: pipe._before == 1))
    monkeypatch.setattr(Pipe, "send", lambda pipe, x: None if pipe.last else between.append(x.clone()))
    monkeypatch.setattr(
        Pipe, "receive", lambda pipe, room: None if room is None else room.copy_(between.popleft())
    )
    if device.type == "cpu":
        monkeypatch.setattr(model_runner, "operators", triton_operators)
        monkeypatch.setattr(ModelRunner, "_on_gpu", True)
    parallel = ParallelConfig(pipeline=2)
    config = msgspec.structs.replace(configuration(folder, device), parallel=parallel)
    stages = [ModelRunner(config, Seat(place, before=place.rank)) for place in places(parallel)]  # type: ignore[arg-type]
    for stage in stages:
        stage.load()
        stage.allocate(64, 8)
    found = Driver(TwoStages(stages)).generate(prompts, GREEDY, count=5, chunk=7)  # type: ignore[arg-type]
    assert [seq.output for seq in found] == expected
    assert not between
