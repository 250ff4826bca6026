"""What the sampler draws, against the distributions that the parameters describe."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo_engine.runner.kernels.sampling import draw, filter_logits, uniforms
from octavo_engine.runner.logits_processors import process_logits
from octavo_engine.runner.sampler import Sampled, Sampler
from octavo_engine.runner.sampling_batch import SamplingBatch
from octavo_engine.sampling_params import SamplingParams

EOS = 7
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
VOCAB = len(LOGITS)
DRAWS = 4000
CHI_SQUARE_999 = {
    1: 10.8,
    2: 13.8,
    3: 16.3,
    4: 18.5,
    5: 20.5,
    6: 22.5,
    7: 24.3,
}  # quantiles, by degrees of freedom


def batch_of(
    *params: SamplingParams,
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    seeds: list[int] | None = None,
) -> SamplingBatch:
    prompt, output = prompt or [0], output or []
    n = len(params)
    return SamplingBatch(
        seq_ids=list(range(n)),
        params=list(params),
        tokens=[np.array(prompt + output, np.int32)] * n,
        prompt_lens=np.full(n, len(prompt), np.int64),
        seeds=np.array(seeds or range(n), np.uint64),
    )


def sample(*params: SamplingParams, logits: torch.Tensor = LOGITS, **sequence: list[int]) -> Sampled:
    return Sampler((EOS,)).sample(logits.repeat(len(params), 1), batch_of(*params, **sequence))


def frequencies(params: SamplingParams, logits: torch.Tensor = LOGITS) -> NDArray[np.float64]:
    counts = Counter(sample(*[params] * DRAWS, logits=logits).token_ids)
    return np.array([counts[token] for token in range(len(logits))], float)


def expected(params: SamplingParams) -> NDArray[np.float64]:
    """The distribution by the book: temperature, then min_p, top_k and top_p on what is left."""
    p = (LOGITS.double() / params.temperature).softmax(0).numpy()
    p[p < params.min_p * p.max()] = 0
    order = np.argsort(-p)
    p[order[params.top_k or VOCAB :]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= params.top_p]] = 0
    found: NDArray[np.float64] = p / p.sum()
    return found


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=3.0),
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.7),
        SamplingParams(min_p=0.2),
        SamplingParams(temperature=2.0, top_k=5, top_p=0.8, min_p=0.1),
    ],
    ids=lambda params: str(params)[len("SamplingParams") :],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    p, counts = expected(params), frequencies(params)
    kept = p > 0
    assert not counts[~kept].any()
    statistic = ((counts[kept] - DRAWS * p[kept]) ** 2 / (DRAWS * p[kept])).sum()
    assert statistic < CHI_SQUARE_999[int(kept.sum()) - 1]


def test_consecutive_positions_of_one_seed_are_independent_draws() -> None:
    counters = np.arange(DRAWS)
    numbers = uniforms(np.full(DRAWS, 42, np.uint64), counters)
    counts = np.histogram2d(numbers[:-1], numbers[1:], bins=2, range=[[0, 1], [0, 1]])[0]
    statistic = ((counts - (DRAWS - 1) / 4) ** 2 / ((DRAWS - 1) / 4)).sum()
    assert statistic < CHI_SQUARE_999[3]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 10**6))
def test_uniform_numbers_depend_on_seed_and_counter_alone(seeds: list[int], counter: int) -> None:
    together = uniforms(np.array(seeds, np.uint64), np.full(len(seeds), counter))
    alone = [uniforms(np.array([seed], np.uint64), np.array([counter]))[0] for seed in seeds]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < 1)).all()


def test_the_same_seed_draws_the_same_in_any_batch() -> None:
    params = SamplingParams(temperature=1.0, top_p=0.9)
    alone = sample(params, seeds=[5]).token_ids
    among = sample(SamplingParams(temperature=0), SamplingParams(top_k=2), params, seeds=[9, 8, 5]).token_ids
    assert among[2] == alone[0]


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert sample(SamplingParams(temperature=0)).token_ids == [0]
    assert sample(SamplingParams(temperature=0), logits=torch.tensor([0.0, 3.0, 3.0])).token_ids == [1]


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-46])
def test_a_temperature_whose_inverse_is_no_number_is_greedy(temperature: float) -> None:
    cold = SamplingParams(temperature=temperature, top_p=0.9)
    assert sample(cold, SamplingParams(temperature=1e-29)).token_ids == [0, 0]


def test_top_p_of_a_flat_distribution_over_a_large_vocabulary_looks_beyond_the_first_candidates() -> None:
    logits = torch.linspace(0, 1e-3, 5000)[None]
    everything = torch.tensor([5000])
    kept = filter_logits(logits, everything, torch.tensor([0.5]), torch.tensor([0.0])).isfinite()
    assert abs(int(kept.sum()) - 2500) <= 5


def test_ties_at_the_cutoff_are_all_kept() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 0.0]])
    kept = filter_logits(logits, torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0])).isfinite()
    assert kept.tolist() == [[True, True, True, False]]


@given(st.floats(0, 1, exclude_max=True))
def test_a_token_that_was_filtered_out_is_never_drawn(number: float) -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]])
    assert int(draw(logits, torch.tensor([number], dtype=torch.float64))) in (1, 3)


@pytest.mark.parametrize(
    ("params", "changed"),
    [
        (SamplingParams(frequency_penalty=0.5), {1: -1.0, 2: -0.5}),
        (SamplingParams(presence_penalty=0.75), {1: -0.75, 2: -0.75}),
        (SamplingParams(frequency_penalty=0.5, presence_penalty=1.0), {1: -2.0, 2: -1.5}),
        (SamplingParams(repetition_penalty=2.0), {0: -1.0, 1: -0.75, 2: -0.5, 6: -1.0}),
        (SamplingParams(logit_bias={3: 4.0, 0: -100.0}), {3: 4.0, 0: -100.0}),
        (SamplingParams(min_tokens=4, stop_token_ids=(5,)), {EOS: -math.inf, 5: -math.inf}),
        (SamplingParams(min_tokens=4, ignore_eos=True), {}),
        (SamplingParams(min_tokens=3), {}),
    ],
    ids=[
        "frequency counts the output",
        "presence counts once",
        "frequency and presence add up",
        "repetition counts the prompt too",
        "logit_bias",
        "min_tokens forbids every end",
        "min_tokens leaves eos to ignore_eos",
        "min_tokens is reached",
    ],
)
def test_logits_are_changed_by(params: SamplingParams, changed: dict[int, float]) -> None:
    batch = batch_of(params, prompt=[0, 6], output=[1, 2, 1])
    found = process_logits(LOGITS[None], batch, (EOS,))[0] - LOGITS
    assert found.tolist() == pytest.approx([changed.get(token, 0.0) for token in range(VOCAB)])


def test_log_probabilities_are_the_models_own_with_rank_and_alternatives() -> None:
    params = SamplingParams(temperature=0, logprobs=2, logit_bias={3: 50.0})
    (token,) = sample(params).tokens
    assert token.logprobs is not None
    mine = LOGITS.log_softmax(0)
    assert (token.token_id, token.logprobs.rank, token.logprobs.token_ids) == (3, 4, [3, 0, 1])
    assert token.logprobs.logprobs == pytest.approx(mine[[3, 0, 1]].tolist())


def test_logprobs_0_reports_the_chosen_token_alone() -> None:
    (token,) = sample(SamplingParams(temperature=0, logprobs=0)).tokens
    assert token.logprobs is not None
    assert token.logprobs.token_ids == [0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_fail_their_own_sequence_only(bad: float, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1)
    logits = torch.stack([LOGITS, LOGITS.index_fill(0, torch.tensor([3]), bad), LOGITS])
    sampled = Sampler((EOS,)).sample(logits, batch_of(params, params, params))
    assert [token.seq_id for token in sampled.tokens] == [0, 2]
    assert "not a number" in sampled.failed[1]
