from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo_engine.runner.kernels import cache as reference
from octavo_engine.runner.kernels.triton.cache import BlockSwapper, copy_blocks, runs, write_kv

DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_keys_and_values_are_written_to_their_slots(
    heads: int, dtype: torch.dtype, device: torch.device
) -> None:
    key, value = torch.randn(2, 6, heads, 80, dtype=dtype, device=device)
    found = torch.randn(2, 3, 16, heads, 80, dtype=dtype, device=device)
    wanted, slots = found.clone(), torch.randperm(48, device=device)[:6]
    reference.write_kv(key, value, wanted[0], wanted[1], slots)
    write_kv(key, value, found[0], found[1], slots)
    assert torch.equal(found, wanted)


def test_a_negative_slot_is_skipped(device: torch.device) -> None:
    key, cache = torch.ones(2, 1, 64, device=device), torch.zeros(2, 1, 16, 1, 64, device=device)
    write_kv(key, key, cache[0], cache[1], torch.tensor([-1, 3], device=device))
    assert cache.sum() == 2 * 64
    assert cache[:, 0, 3].eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [16, 32])
def test_blocks_are_copied_in_all_layers(block_size: int, dtype: torch.dtype, device: torch.device) -> None:
    found = torch.randn(2, 2, 7, block_size, 3, 64, device=device).to(dtype)
    wanted = found.clone()
    sources, targets = torch.tensor([0, 5, 0], device=device), torch.tensor([3, 1, 2], device=device)
    reference.copy_blocks(wanted, wanted, sources, targets)
    copy_blocks(found, found, sources, targets)
    assert torch.equal(found.float(), wanted.float())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_runs_are_the_pairs_in_order(pairs: list[tuple[int, int]]) -> None:
    found = runs(pairs)
    assert [(s + i, t + i) for s, t, count in found for i in range(count)] == pairs
    assert all((s + n, t + n) != (s2, t2) for (s, t, n), (s2, t2, _) in pairwise(found))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_blocks_swapped_out_and_in_again_are_the_same(dtype: torch.dtype, device: torch.device) -> None:
    cache = torch.randn(4, 2, 32, 16, 8, 128, device=device).to(dtype)
    wanted = cache.clone()
    swapper = BlockSwapper(cache, torch.zeros(4, 2, 20, 16, 8, 128, dtype=dtype).pin_memory())
    swapper.swap_out([(3, 0), (4, 1), (5, 2), (30, 9)])
    swapper.join()
    for block in (3, 4, 5, 30):
        cache[:, :, block] = torch.zeros((), device=device).to(dtype)
    swapper.swap_in([(0, 3), (1, 4), (2, 5), (9, 30)])
    swapper.join()
    assert torch.equal(cache.float(), wanted.float())


@pytest.mark.gpu
def test_pageable_host_memory_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="pinned"):
        BlockSwapper(torch.zeros(1, 2, 4, device=device), torch.zeros(1, 2, 4))
