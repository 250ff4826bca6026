from __future__ import annotations

import pytest

from octavo_engine.config import ParallelConfig
from octavo_engine.errors import ConfigError
from octavo_engine.runner.parallel.topology import places, stage_layers


def test_ranks_of_a_stage_stand_side_by_side() -> None:
    found = [
        (p.stage, p.shard, p.first, p.last, p.reports) for p in places(ParallelConfig(tensor=2, pipeline=2))
    ]
    assert found == [
        (0, 0, True, False, False),
        (0, 1, True, False, False),
        (1, 0, False, True, True),
        (1, 1, False, True, False),
    ]


@pytest.mark.parametrize(
    ("layers", "stages", "given", "expected"),
    [
        (4, 1, None, [range(4)]),
        (7, 3, None, [range(3), range(3, 5), range(5, 7)]),
        (5, 2, (1, 4), [range(1), range(1, 5)]),
    ],
)
def test_layers_are_split_evenly_or_as_given(
    layers: int, stages: int, given: tuple[int, ...] | None, expected: list[range]
) -> None:
    assert stage_layers(layers, stages, given) == expected


@pytest.mark.parametrize(
    ("stages", "given", "sentence"),
    [
        (5, None, "--pipeline-parallel-size 5 is more than the model's 4 layers; lower it."),
        (
            2,
            (1, 2),
            "--pipeline-layers 1,2 must name 2 numbers of at least 1 that sum to the model's 4 layers.",
        ),
        (2, (4, 0), "--pipeline-layers 4,0 must name 2 numbers"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(
    stages: int, given: tuple[int, ...] | None, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        stage_layers(4, stages, given)


def test_a_rank_is_named_with_its_part_and_node() -> None:
    assert places(ParallelConfig(tensor=2))[1].name("node-a") == "rank 1 on node-a"
    assert places(ParallelConfig(tensor=2, pipeline=2))[3].name() == "rank 3 (stage 1, shard 1)"
