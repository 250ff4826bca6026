"""The page of figures: what all share is told once."""

import pytest
from bench.figures import Aim, Measured
from bench.readme_figures import ROWS, readme_table
from bench.render import LONG, split_conditions, table


@pytest.mark.parametrize(
    ("conditions", "common", "rest"),
    [
        ([], "", []),
        (["a; b"], "a; b", [""]),
        (["one; card; 3 runs", "two; card; 3 runs"], "card; 3 runs", ["one", "two"]),
        (["one", "two"], "", ["one", "two"]),
    ],
)
def test_what_all_were_measured_under_is_told_apart(
    conditions: list[str], common: str, rest: list[str]
) -> None:
    assert split_conditions(conditions) == (common, rest)


def test_a_table_has_its_aims_first_and_tells_once_what_all_share() -> None:
    aims = [Aim("g", "speed", "x/s", "higher", "10", "8 them"), Aim("g", "size", "MB", "lower", "5", "")]
    results = [
        Measured("other", 1.0, "s", "alone; card"),
        Measured("speed", 12.0, "x/s", "fast; card"),
        Measured("peer: speed", 9.0, "x/s", "fast; card"),
    ]
    assert table("g", aims, results) == [
        "### g",
        "",
        "| figure | measured | aim | peer | | conditions |",
        "|---|---|---|---|---|---|",
        "| speed | 12 x/s | >= 10 x/s | 9 peer, same run | met | fast |",
        "| size | not measured yet | <= 5 MB | - |  |  |",
        "| other | 1 s | - | - | | alone |",
        "",
        "All: card.",
        "",
    ]


def test_the_readme_shows_the_peer_of_the_same_run_before_any_other() -> None:
    group, figure, meaning = ROWS[0]
    aims = [Aim(group, figure, "ms", "lower", "5", "8 them")]
    own = Measured(figure, 6.0, "ms", "")
    beside = Measured(f"peer: {figure}", 7.0, "ms", "")
    rows = [readme_table(aims, {group: results}).splitlines()[2:] for results in ([], [own], [own, beside])]
    assert rows == [[], [f"| {meaning} | 6 ms | 8 them |"], [f"| {meaning} | 6 ms | 7 peer, same run |"]]


@pytest.mark.parametrize(("count", "folded"), [(LONG, False), (LONG + 1, True)])
def test_a_long_table_without_aims_is_folded(count: int, folded: bool) -> None:
    lines = table("g", [], [Measured(f"f{number}", 1.0, "s", "") for number in range(count)])
    assert ("</details>" in lines) == folded
    assert (f"<details><summary>{count} figures</summary>" in lines) == folded
