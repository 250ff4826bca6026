import math

import pytest
import torch
from torch import Tensor

from octavo_engine.runner.device.warm import compile_sampling
from octavo_engine.runner.kernels.sampling import filter_logits
from octavo_engine.runner.kernels.triton.cutoff import cutoffs
from octavo_engine.runner.kernels.triton.sampling import SamplingColumns, sample


def columns(
    rows: int,
    device: torch.device,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    counter: int = 0,
) -> SamplingColumns:
    return SamplingColumns(
        torch.full((rows,), temperature, device=device),
        torch.full((rows,), top_k, dtype=torch.int32, device=device),
        torch.full((rows,), top_p, device=device),
        torch.full((rows,), min_p, device=device),
        torch.arange(seed, seed + rows, device=device) * 0x9E3779B97F4A7C15 % 2**63,
        torch.full((rows,), counter, dtype=torch.int64, device=device),
    )


def kept(logits: Tensor, given: SamplingColumns) -> Tensor:
    cutoff = cutoffs(logits, given.temperature, given.top_k, given.top_p, given.min_p)
    return logits >= cutoff[:, None]


def kept_by_reference(logits: Tensor, given: SamplingColumns) -> Tensor:
    scaled = logits.float() / given.temperature[:, None]
    top_k = torch.where(given.top_k == 0, logits.shape[1], given.top_k.long())
    return filter_logits(scaled, top_k, given.top_p, given.min_p) > -torch.inf


FILTERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 0.3},
    {"top_p": 1e-9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 30, "top_p": 0.8, "min_p": 0.02, "temperature": 1.7},
    {"top_k": 0},
]


@pytest.mark.parametrize("settings", FILTERS, ids=str)
@pytest.mark.parametrize("vocab", [37, 5000])
def test_filters_keep_what_the_reference_keeps(
    vocab: int, settings: dict[str, float], device: torch.device
) -> None:
    logits = 3 * torch.randn(3, vocab, device=device)
    given = columns(3, device, **settings)
    assert torch.equal(kept(logits, given), kept_by_reference(logits, given))


@pytest.mark.parametrize(
    "settings", [{"top_p": 0.9}, {"top_k": 1500}, {"top_k": 1500, "top_p": 0.9, "min_p": 0.01}], ids=str
)
def test_filters_of_a_distribution_that_is_nearly_flat(
    settings: dict[str, float], device: torch.device
) -> None:
    """More candidates than are looked at apart: the whole row is searched, beside one that need not be."""
    logits = 0.1 * torch.randn(2, 3000, device=device)
    logits[1] *= 60
    given = columns(2, device, **settings)
    assert torch.equal(kept(logits, given), kept_by_reference(logits, given))


def test_filters_of_rounded_logits_keep_all_that_equal_the_last(device: torch.device) -> None:
    logits = (2 * torch.randn(2, 1500, device=device)).round()
    given = columns(2, device, top_k=5)
    expected = logits >= logits.sort(descending=True).values[:, 4:5]
    assert torch.equal(kept(logits, given), expected)


def test_ties_at_the_cutoff_are_kept(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]], device=device)
    assert kept(logits, columns(2, device, top_k=2)).sum(dim=-1).tolist() == [3, 5]


def test_masked_tokens_stay_masked(device: torch.device) -> None:
    logits = torch.full((2, 5000), -torch.inf, device=device)
    logits[:, [3, 4100, 4200]] = torch.tensor([0.0, 1.0, -1.0], device=device)
    for settings in ({"top_k": 2}, {"top_p": 0.7}, {"top_k": 100, "top_p": 0.999}, {}):
        given = columns(2, device, **settings)
        tokens, _ = sample(logits, given, filtered=True)
        assert set(tokens.tolist()) <= {3, 4100, 4200}


def test_greedy_takes_the_best_and_its_log_probability(device: torch.device) -> None:
    logits = torch.randn(4, 9001, device=device)
    logits[2, [5, 8999]] = 50.0
    tokens, logprobs = sample(logits, columns(4, device, temperature=0.0), filtered=False)
    wanted = logits.cpu().argmax(dim=-1)
    wanted[2] = 5
    assert tokens.tolist() == wanted.tolist()
    rows = torch.arange(4, device=device)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[rows, tokens], atol=1e-4, rtol=1e-4)


def test_log_probabilities_are_of_the_raw_logits(device: torch.device) -> None:
    raw = torch.randn(3, 500, device=device)
    changed = raw.clone()
    changed[:, 17] = 100.0
    tokens, logprobs = sample(changed, columns(3, device, temperature=0.7), filtered=False, raw=raw)
    assert tokens.tolist() == [17] * 3
    torch.testing.assert_close(logprobs, raw.log_softmax(-1)[:, 17], atol=1e-4, rtol=1e-4)


def test_a_draw_depends_on_seed_and_counter_alone(device: torch.device) -> None:
    logits = torch.randn(1, 6000, device=device)
    many = logits.expand(5, -1).contiguous()
    given = columns(5, device, seed=3, counter=9)
    together, _ = sample(many, given, filtered=False)
    for row in range(5):
        alone, _ = sample(logits, columns(1, device, seed=3 + row, counter=9), filtered=False)
        assert alone.item() == together[row].item()
    later, _ = sample(many, columns(5, device, seed=3, counter=10), filtered=False)
    assert together.tolist() != later.tolist()
    assert len(set(together.tolist())) > 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_numbers_gets_no_token(bad: float, device: torch.device) -> None:
    logits = torch.randn(3, 300, device=device)
    logits[1, 299] = bad
    for settings in ({}, {"top_p": 0.9, "top_k": 5}, {"temperature": 0.0}):
        tokens, _ = sample(logits, columns(3, device, **settings), filtered=bool(settings))
        assert tokens[1] == -1
        assert tokens[[0, 2]].ge(0).all()


def chi_square(row: Tensor, draws: int, settings: dict[str, float]) -> float:
    """Pearson's statistic of ``draws`` tokens against the probabilities by ``row`` [1, vocab] and filters."""
    given = columns(draws, row.device, **settings)
    tokens, _ = sample(row.expand(draws, -1).contiguous(), given, filtered=True)
    hidden = ~kept_by_reference(row, columns(1, row.device, **settings))[0]
    wanted = draws * (row[0] / given.temperature[0]).masked_fill(hidden, -torch.inf).softmax(-1)
    counts = torch.bincount(tokens, minlength=row.shape[1])
    assert not counts[hidden].any()
    return float(((counts - wanted) ** 2 / wanted)[~hidden].sum())


def test_tokens_come_as_often_as_their_probability_says(device: torch.device) -> None:
    """60 draws of 3 tokens; the limit is passed by chance once in 10,000."""
    row = torch.tensor([[0.0, 1.0, 1.5]], device=device)
    assert chi_square(row, 60, {"temperature": 2.0}) < 18.4


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_k": 6, "top_p": 0.8}], ids=str)
def test_many_tokens_come_as_often_as_their_probability_says(
    settings: dict[str, float], device: torch.device
) -> None:
    """20,000 draws of 16 tokens; the limit is passed by chance once in a million."""
    assert chi_square(1.5 * torch.randn(1, 16, device=device), 20000, settings) < 56


@pytest.mark.gpu
@pytest.mark.parametrize("settings", FILTERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filters_of_a_large_vocabulary(
    settings: dict[str, float], dtype: torch.dtype, device: torch.device
) -> None:
    logits = (2 * torch.randn(9, 128256, device=device)).to(dtype)
    given = columns(9, device, **settings)
    differing = (kept(logits, given) != kept_by_reference(logits, given)).sum().item()
    # Sums of 128,256 float32 weights in another order may move a top_p cutoff by single tokens.
    assert differing <= (0 if given.top_p[0] == 1 else 200 if dtype == torch.bfloat16 else 9)


@pytest.mark.gpu
def test_a_large_vocabulary_is_drawn_from_evenly(device: torch.device) -> None:
    draws, vocab = 4096, 128256
    tokens, _ = sample(torch.zeros(draws, vocab, device=device), columns(draws, device), filtered=False)
    counts = torch.histc(tokens.float(), bins=16, min=0, max=vocab)
    assert ((counts - draws / 16) ** 2 / (draws / 16)).sum().item() < 62


def test_what_is_compiled_at_start_runs(device: torch.device) -> None:
    compile_sampling(100, torch.bfloat16, device)
