"""Penalties, biases and forbidden ends on the device, against the reference, which goes row by row."""

import numpy as np
import pytest
import torch

from octavo_engine.messages import SequenceStart, SequenceStep
from octavo_engine.runner.device.logit_memory import RowMemory
from octavo_engine.runner.logits_processors import process_logits
from octavo_engine.runner.rows import RowTable
from octavo_engine.runner.sampling_batch import SamplingBatch
from octavo_engine.sampling_params import SamplingParams

EOS = (3, 9)
ASKED = {
    "nothing": SamplingParams(),
    "repetition": SamplingParams(repetition_penalty=1.7),
    "less than one repetition": SamplingParams(repetition_penalty=0.6),
    "frequency": SamplingParams(frequency_penalty=0.7),
    "presence": SamplingParams(presence_penalty=-1.2),
    "bias": SamplingParams(logit_bias={0: -100.0, 5: 3.5, 36: 100.0}),
    "min_tokens": SamplingParams(min_tokens=4, stop_token_ids=(7, 999999)),
    "min_tokens reached": SamplingParams(min_tokens=2),
    "min_tokens without eos": SamplingParams(min_tokens=9, ignore_eos=True, stop_token_ids=(11,)),
    "all": SamplingParams(
        repetition_penalty=1.3,
        frequency_penalty=-0.4,
        presence_penalty=1.1,
        logit_bias={2: 1.0},
        min_tokens=50,
    ),
}


class Batch:
    """Rows that begin with a prompt and some output, and go on token by token, on host and device."""

    def __init__(self, vocab: int, device: torch.device, asked: list[SamplingParams], outputs: int) -> None:
        self.rows = RowTable(64, 4, seed=0)
        self.memory = RowMemory(self.rows, vocab, EOS, device)
        self.device, self.asked, self.lens = device, asked, [0] * len(asked)
        self._draw = np.random.default_rng(1)
        self._vocab = vocab
        for seq_id, params in enumerate(asked):
            self.start(seq_id, params, outputs)

    def start(self, seq_id: int, params: SamplingParams, outputs: int) -> None:
        tokens = self._draw.integers(0, self._vocab, 6 + outputs).tolist()
        self.asked[seq_id], self.lens[seq_id] = params, len(tokens)
        self.rows.start(SequenceStart(seq_id, tokens, 6, params, [seq_id], 0))
        self.memory.start(self.rows.indices([seq_id]))

    @property
    def index(self) -> torch.Tensor:
        return torch.from_numpy(self.rows.indices(list(range(len(self.asked))))).to(self.device)

    def sampled(self, tokens: list[int]) -> None:
        for seq_id, token in enumerate(tokens):
            self.rows.put_token(seq_id, self.lens[seq_id], max(token, 0))
            self.lens[seq_id] += 1
        self.memory.count(torch.tensor(tokens, device=self.device), self.index)

    def by_reference(self, logits: torch.Tensor) -> torch.Tensor:
        steps = [SequenceStep(i, n - 1, 1, True, []) for i, n in enumerate(self.lens)]
        return process_logits(logits.float().cpu(), SamplingBatch.of(self.rows, steps), EOS)

    def by_kernel(self, logits: torch.Tensor) -> torch.Tensor:
        lens = torch.tensor([n - 6 for n in self.lens], device=self.device)
        return self.memory.adjust(logits, self.index, lens).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab", "outputs"), [(37, 0), (2500, 3)])
def test_each_row_is_changed_as_the_reference_changes_it(
    vocab: int, outputs: int, dtype: torch.dtype, device: torch.device
) -> None:
    batch = Batch(vocab, device, list(ASKED.values()), outputs)
    for tokens in ([4] * 10, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [4, 4, 4, 4, 4, 4, 4, 4, 4, -1]):
        logits = (2 * torch.randn(len(ASKED), vocab, device=device)).to(dtype)
        torch.testing.assert_close(batch.by_kernel(logits), batch.by_reference(logits), rtol=1e-6, atol=1e-6)
        batch.sampled(tokens)
    logits = torch.randn(len(ASKED), vocab, device=device, dtype=dtype)
    torch.testing.assert_close(batch.by_kernel(logits), batch.by_reference(logits), rtol=1e-6, atol=1e-6)


def test_a_row_that_begins_anew_forgets_what_it_asked_before(device: torch.device) -> None:
    batch = Batch(37, device, [ASKED["all"], ASKED["bias"]], 2)
    batch.sampled([5, 5])
    batch.start(0, ASKED["nothing"], 1)
    batch.start(1, ASKED["presence"], 1)
    logits = torch.randn(2, 37, device=device)
    torch.testing.assert_close(batch.by_kernel(logits), batch.by_reference(logits))
    assert torch.equal(batch.by_kernel(logits)[0], logits[0].cpu())


def test_more_rows_than_there_were_keep_what_the_old_ones_know(device: torch.device) -> None:
    batch = Batch(37, device, [ASKED["all"]] * 3, 2)
    batch.sampled([1, 2, 3])
    before = len(batch.rows.params)
    for seq_id in range(3, before + 2):
        batch.asked.append(ASKED["frequency"])
        batch.lens.append(0)
        batch.start(seq_id, ASKED["frequency"], 1)
    assert len(batch.rows.params) > before
    logits = torch.randn(len(batch.asked), 37, device=device)
    torch.testing.assert_close(batch.by_kernel(logits), batch.by_reference(logits))


def test_nothing_is_held_while_nobody_asks(device: torch.device) -> None:
    batch = Batch(37, device, [ASKED["nothing"]] * 2, 0)
    batch.sampled([1, 2])
    assert batch.memory._memory is None
