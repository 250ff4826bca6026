"""Which all-reduces go in one shot; that their sums are right is shown on GPUs (test_gpu.py)."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.distributed as dist

from octavo_engine.runner.parallel import one_shot
from octavo_engine.runner.parallel.group import DistributedGroup

GPU = torch.device("cuda", 0)


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)


def see(monkeypatch: pytest.MonkeyPatch, gpus: int, *unreachable: tuple[int, int]) -> None:
    reachable = set(permutations(range(gpus), 2)) - set(unreachable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: (a, b) in reachable)


@pytest.mark.parametrize(
    ("world_size", "gpus", "unreachable", "fits"),
    [
        (2, 2, [], True),
        (2, 4, [], True),
        (2, 2, [(0, 1)], False),
        (2, 4, [(3, 2)], False),  # the ranks may be on any of them
        (4, 4, [], False),
        (1, 1, [], False),
    ],
)
def test_two_ranks_whose_gpus_reach_each_other_fit(
    world_size: int,
    gpus: int,
    unreachable: list[tuple[int, int]],
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(monkeypatch, gpus, *unreachable)
    assert one_shot.fits(world_size) is fits


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize(
    ("device", "one_node"), [(torch.device("cpu"), True), (GPU, False)], ids=["on CPUs", "over two nodes"]
)
def test_others_take_the_library_s_collectives(
    device: torch.device, one_node: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 2)
    assert type(one_shot.group_of(None, device, one_node)) is DistributedGroup


@pytest.mark.usefixtures("two_ranks")
def test_memory_that_cannot_be_shared_is_told_and_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no file descriptor was received\nmore")

    see(monkeypatch, 2)
    monkeypatch.setattr(one_shot.OneShotGroup, "__init__", refuse)
    assert type(one_shot.group_of(None, GPU, one_node=True)) is DistributedGroup
    assert "go over NCCL: no file descriptor was received" in caplog.text
    assert "more" not in caplog.text


@pytest.mark.parametrize(
    ("x", "goes_over"),
    [
        (torch.ones(8, 16, dtype=torch.bfloat16), "one shot"),
        (torch.ones(8, 16), "one shot"),
        (torch.ones(1, dtype=torch.bfloat16), "NCCL"),  # not a multiple of what is read at once
        (torch.ones(8, dtype=torch.float16), "NCCL"),
        (torch.ones(one_shot.MOST_BYTES // 4), "one shot"),
        (torch.ones(one_shot.MOST_BYTES // 4 + 4), "NCCL"),
    ],
)
def test_what_is_large_or_of_another_dtype_goes_over_nccl(
    x: torch.Tensor, goes_over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ops:
        @staticmethod
        def one_shot_all_reduce_copy(
            shared: torch.Tensor, x: torch.Tensor, operation: str, group: str
        ) -> torch.Tensor:
            assert (shared.shape, shared.dtype, operation, group) == (x.shape, x.dtype, "sum", "0")
            return 2 * x

    def all_reduce(x: torch.Tensor, group: object) -> None:
        x.mul_(3)

    monkeypatch.setattr(torch.ops, "symm_mem", Ops())
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    group = one_shot.OneShotGroup.__new__(one_shot.OneShotGroup)
    group._name, group._group = "0", None
    group._shared = torch.empty(one_shot.MOST_BYTES, dtype=torch.uint8)
    assert group.all_reduce(x.clone()).flatten()[0] == {"one shot": 2, "NCCL": 3}[goes_over]
